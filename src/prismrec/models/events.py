"""Padded batches of users' events, cut from the flat arrays of all histories.

Padding is on the left, so that the newest event of every user stands in the last column. The event table may sit
on any device; a batch is gathered there without a loop over users.

Shapes: U users, E events in all, B users of the batch, L longest slice of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

NUM_GAP_BUCKETS = 26  # log2 of seconds: 0, 1 s, 2 s, … a year and more


class EventBatch(NamedTuple):
    """Events of B users, old to new, padded on the left."""

    items_BL: Tensor  # int64 item indices; padding repeats some event
    gaps_BL: Tensor  # int64 buckets of the time since the event before
    mask_BL: Tensor  # bool, True where there is an event


class EventTable:
    """All users' events as flat tensors, from which padded batches are cut.

    Args:
        offsets: [U+1] where each user's events start.
        items: [E] item indices, in time order within a user.
        timestamps: [E] seconds.
        device: where batches are gathered.
    """

    def __init__(
        self, offsets: np.ndarray, items: np.ndarray, timestamps: np.ndarray, device: torch.device | str = "cpu"
    ) -> None:
        self.offsets_U1 = torch.as_tensor(np.asarray(offsets, dtype=np.int64)).to(device)
        self.items_E = torch.as_tensor(np.asarray(items, dtype=np.int64)).to(device)
        self.gaps_E = gap_buckets(torch.as_tensor(np.asarray(timestamps, dtype=np.int64))).to(device)

    def __len__(self) -> int:
        return len(self.offsets_U1) - 1

    def cut(self, users_B: Tensor, starts_B: Tensor, ends_B: Tensor, width: int | None = None) -> EventBatch:
        """Events [start, end) of each user, counted from the user's first event.

        Args:
            width: L; the longest slice when None.
        """
        length_B = ends_B - starts_B
        longest = int(length_B.max()) if width is None else width
        back_L = torch.arange(longest, 0, -1, device=users_B.device)
        mask_BL = back_L <= length_B[:, None]
        position_BL = torch.where(mask_BL, ends_B[:, None] - back_L, 0)
        flat_BL = (self.offsets_U1[users_B][:, None] + position_BL).clamp_max(len(self.items_E) - 1)
        first_BL = position_BL == 0
        gaps_BL = self.gaps_E[flat_BL].masked_fill(first_BL, 0)
        return EventBatch(self.items_E[flat_BL], gaps_BL, mask_BL)

    def item_at(self, users_B: Tensor, positions_B: Tensor) -> Tensor:
        """[B] the item of each user's event at the position."""
        return self.items_E[self.offsets_U1[users_B] + positions_B]


def gap_buckets(timestamps: Tensor) -> Tensor:
    """Bucket of the time since the previous entry, log2 of seconds: [..., L] int64 below NUM_GAP_BUCKETS.

    The first entry has no previous one and falls into bucket 0, as does a gap of no or negative time (where one
    user's events end and the next one's begin).
    """
    gap = F.pad(timestamps[..., 1:] - timestamps[..., :-1], (1, 0)).clamp_min(0)
    return torch.log2(gap.double() + 1.0).long().clamp_max(NUM_GAP_BUCKETS - 1)
