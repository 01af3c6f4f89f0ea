"""Padded batches of users' events, cut from the flat arrays of all histories.

Padding is on the left, so that the newest event of every user stands in the last column. The event table may sit
on any device; a batch is gathered there without a loop over users.

Shapes: U users, E events in all, B users of the batch, L longest slice of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GAP_BUCKETS = 26  # log2 of seconds: 0, 1 s, 2 s, … a year and more
UNKNOWN_GAP = GAP_BUCKETS  # the history came without times
NUM_GAP_BUCKETS = GAP_BUCKETS + 1
UNKNOWN_TIME = -(2**62)  # of a request, in seconds


class EventBatch(NamedTuple):
    """Events of B users, old to new, padded on the left."""

    items_BL: Tensor  # int64 item indices; padding repeats some event
    gaps_BL: Tensor  # int64 buckets of the time since the event before
    until_BL: Tensor  # int64 buckets of the time until the next event or the request, whichever is predicted
    mask_BL: Tensor  # bool, True where there is an event

    def of(self, users: slice) -> EventBatch:
        """The events of some of the users."""
        return EventBatch(*(part_BL[users] for part_BL in self))


class EventTable:
    """All users' events as flat tensors, from which padded batches are cut.

    Args:
        offsets: [U+1] where each user's events start.
        items: [E] item indices, in time order within a user.
        timestamps: [E] seconds; None where times are unknown.
        device: where batches are gathered.
        requests: [U] seconds, when something is asked for after each user's last event; None where that is unknown.
    """

    def __init__(
        self,
        offsets: np.ndarray,
        items: np.ndarray,
        timestamps: np.ndarray | None,
        device: torch.device | str = "cpu",
        requests: np.ndarray | None = None,
    ) -> None:
        # Copies: arrays that come out of a table cannot be written to, which torch does not like.
        self.offsets_U1 = torch.from_numpy(np.array(offsets, dtype=np.int64)).to(device)
        self.items_E = torch.from_numpy(np.array(items, dtype=np.int64)).to(device)
        self.gaps_E = torch.full_like(self.items_E, UNKNOWN_GAP)
        self.until_E = self.gaps_E.clone()
        self.asked_E = torch.full_like(self.items_E, UNKNOWN_TIME)  # seconds, of the next event or the request
        if timestamps is None or not len(self.items_E):
            return
        times_E = torch.from_numpy(np.array(timestamps, dtype=np.int64))
        self.gaps_E = gap_buckets(times_E).to(device)
        self.until_E = torch.cat([self.gaps_E[1:], self.until_E[:1]])
        self.asked_E = torch.cat([times_E[1:].to(device), self.asked_E[:1]])
        some_U = self.offsets_U1[1:] > self.offsets_U1[:-1]
        first_U, last_U = self.offsets_U1[:-1][some_U], self.offsets_U1[1:][some_U] - 1
        self.gaps_E[first_U] = 0  # a first event has no event before it
        self.until_E[last_U], self.asked_E[last_U] = UNKNOWN_GAP, UNKNOWN_TIME
        if requests is not None:
            asked_U = torch.from_numpy(np.array(requests, dtype=np.int64))[some_U.cpu()]
            self.until_E[last_U] = gap_buckets(torch.stack([times_E[last_U.cpu()], asked_U], dim=1))[:, 1].to(device)
            self.asked_E[last_U] = asked_U.to(device)

    @classmethod
    def joined(cls, tables: Sequence[EventTable]) -> EventTable:
        """One table of the users of several, in their order."""
        if len(tables) == 1:
            return tables[0]
        joined = copy.copy(tables[0])
        lengths_U = torch.cat([table.offsets_U1.diff() for table in tables])
        joined.offsets_U1 = F.pad(lengths_U.cumsum(0), (1, 0))
        for name in ("items_E", "gaps_E", "until_E", "asked_E"):
            setattr(joined, name, torch.cat([getattr(table, name) for table in tables]))
        return joined

    def without_times(self, users_U: np.ndarray) -> EventTable:
        """The same events, with all times of some users unknown.

        Args:
            users_U: [U] bool.
        """
        table = self.without_request_times(users_U)
        table.gaps_E = self.gaps_E.masked_fill(self._events_of(users_U), UNKNOWN_GAP)
        return table

    def without_request_times(self, users_U: np.ndarray) -> EventTable:
        """The same events, where some users' next event or request comes at an unknown time.

        Args:
            users_U: [U] bool.
        """
        table = copy.copy(self)
        unknown_E = self._events_of(users_U)
        table.until_E = self.until_E.masked_fill(unknown_E, UNKNOWN_GAP)
        table.asked_E = self.asked_E.masked_fill(unknown_E, UNKNOWN_TIME)
        return table

    def _events_of(self, users_U: np.ndarray) -> Tensor:
        """[E] whether an event is one of these users'."""
        lengths_U = self.offsets_U1[1:] - self.offsets_U1[:-1]
        return torch.from_numpy(users_U).to(lengths_U.device).repeat_interleave(lengths_U)

    def alone(self, user: int, end: int) -> EventTable:
        """The first `end` events of one user."""
        first = int(self.offsets_U1[user])
        table = copy.copy(self)
        table.offsets_U1 = torch.tensor([0, end], device=self.offsets_U1.device)
        for name in ("items_E", "gaps_E", "until_E", "asked_E"):
            setattr(table, name, getattr(self, name)[first : first + end])
        return table

    @property
    def timed(self) -> bool:
        """Whether the time of any event is known."""
        return bool((self.gaps_E != UNKNOWN_GAP).any())

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
        return EventBatch(self.items_E[flat_BL], self.gaps_E[flat_BL], self.until_E[flat_BL], mask_BL)

    def asked_at(self, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B] seconds, when something is asked for after each user's first `ends_B` events, at least one.

        That is when the next event comes, or the request; UNKNOWN_TIME where that is unknown.
        """
        return self.asked_E[self.offsets_U1[users_B] + ends_B - 1]

    def item_at(self, users_B: Tensor, positions_B: Tensor) -> Tensor:
        """[B] the item of each user's event at the position."""
        return self.items_E[self.offsets_U1[users_B] + positions_B]


def gap_buckets(timestamps: Tensor) -> Tensor:
    """Bucket of the time since the previous entry, log2 of seconds: [..., L] int64 below GAP_BUCKETS.

    The first entry has no previous one and falls into bucket 0, as does a gap of no or negative time.
    """
    gap = F.pad(timestamps[..., 1:] - timestamps[..., :-1], (1, 0)).clamp_min(0)
    return torch.log2(gap.double() + 1.0).long().clamp_max(GAP_BUCKETS - 1)


def later_bucket(bucket_B: Tensor, seconds_B: Tensor) -> Tensor:
    """Bucket [B] of a gap that is so many seconds longer than one of this bucket; one too low at most."""
    return torch.log2(2.0 ** bucket_B.double() + seconds_B.double()).long().clamp_max(GAP_BUCKETS - 1)
