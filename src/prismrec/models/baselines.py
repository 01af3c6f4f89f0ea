"""Baselines without training: what any trained model has to beat.

Popularity is a ranker (`rankers.py`), because it is served too. Decayed Markov transitions stand here: they are
evaluated only.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker
from prismrec.models.transitions import transition_counts, with_reverse

AGE_DECAY = 0.7  # weight of an event, per event that came after it
MAX_AGE = 64  # 0.7^64 < 1e-9: older events change no rank


class DecayedMarkovRanker(Ranker):
    """Transition counts over √popularity, plus half the transpose; a user's score is Σ 0.7^age · row.

    Args:
        items, offsets: all users' events.
        ends: how many of each user's first events are counted.
        num_items: N.
    """

    name = "decayed_markov"

    def __init__(self, items: np.ndarray, offsets: np.ndarray, ends: np.ndarray, num_items: int) -> None:
        lengths = np.diff(offsets)
        user_E = np.repeat(np.arange(len(lengths)), lengths)
        counted_E = (np.arange(len(items)) - offsets[user_E]) < ends[user_E]
        popularity_N = np.maximum(np.bincount(items[counted_E], minlength=num_items), 1)
        counts = transition_counts(items, offsets, ends, num_items)
        self.rows = with_reverse(counts @ sp.diags(1.0 / np.sqrt(popularity_N)))

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Decayed sum of the rows of the last events: [B, N]."""
        history = events.cut(users_B, (ends_B - MAX_AGE).clamp_min(0), ends_B)
        mask = history.mask_BL.numpy()
        user, column = np.nonzero(mask)
        weight = AGE_DECAY ** (mask.shape[1] - 1 - column)
        shape = (len(mask), self.rows.shape[0])
        recent = sp.csr_matrix((weight, (user, history.items_BL.numpy()[mask])), shape=shape)
        return torch.from_numpy((recent @ self.rows).toarray())

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """One interest: what follows the last events."""
        whole = torch.zeros(1, dtype=torch.int64), events.offsets_U1[1:2]
        return self.scores(events, *whole).clamp_min(1e-12).log(), ["transitions"]
