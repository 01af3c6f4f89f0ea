"""How many users are scored at once, so that memory stays bounded whatever users × items × interests."""

from __future__ import annotations

SCORES = 2**26  # scores held at once: 256 MiB in float32
MOST_USERS = 128  # bounds what models keep for the users' histories


def chunk_size(num_items: int, held: int) -> int:
    """Users scored at once, at least one.

    Args:
        num_items: N, the catalogue.
        held: score vectors [N] that the ranker computes at once for a user (`Ranker.held`).
    """
    return min(MOST_USERS, max(1, SCORES // (num_items * held)))
