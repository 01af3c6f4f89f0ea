"""Stage 7: full-ranking figures of every model and baseline."""
