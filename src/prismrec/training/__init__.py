"""The training loop, losses, matching, and one task a model."""
