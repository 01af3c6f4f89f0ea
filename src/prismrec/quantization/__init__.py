"""Quantisers: balanced k-means, the cosine residual codebook, the residual quantiser of the dictionary."""
