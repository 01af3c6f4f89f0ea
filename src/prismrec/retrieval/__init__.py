"""Exact retrieval over the whole catalogue."""
