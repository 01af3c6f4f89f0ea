"""Stage 4: cosine residual codebook over the item vectors."""
