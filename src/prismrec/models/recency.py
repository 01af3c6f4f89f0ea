"""Recency: how often everybody has lately met each item, as of the request's own time (our choice).

    score(i | now) = log (events of i on the days [today - window, today) + PRIOR) - log (all of them + PRIOR · N)

What is new or in fashion says much of the next item where a catalogue moves, and nothing in a history tells it. It is a
member of HyMiRec's merge (`merge.py`) where the time of a request is known; without, it says the same of all items.

Notable: whole days are counted, and today is not, so that nothing of the request's own day is known to it; the scores
of a day are the same for everybody. A model keeps what was counted, day by day, so that it answers for any day; after
the last one it forgets within a window, and then says nothing.

Shapes: B requests, Q distinct days, N items, E pairs of a day and an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prismrec.models.events import UNKNOWN_TIME, EventTable
from prismrec.models.module import SavedModule
from prismrec.models.rankers import Ranker

RECENCY = "recency"
DAY = 86_400  # seconds
PRIOR = 0.5  # events that every item is given


@dataclass(frozen=True)
class RecencyConfig:
    """Items, days of the window, and how many pairs of a day and an item are kept."""

    num_items: int
    window: int
    pairs: int


class Recency(SavedModule):
    """Events by day and item, sorted by day."""

    kind: ClassVar[str] = RECENCY
    config_class: ClassVar[type] = RecencyConfig
    config: RecencyConfig
    days_E: Tensor
    items_E: Tensor
    counts_E: Tensor

    def __init__(self, config: RecencyConfig) -> None:
        super().__init__(config)
        for name in ("days_E", "items_E", "counts_E"):
            self.register_buffer(name, torch.zeros(config.pairs, dtype=torch.int32))

    @classmethod
    def count(cls, items: np.ndarray, timestamps: np.ndarray, num_items: int, window: int) -> Recency:
        """Count events.

        Args:
            items: [events] item indices.
            timestamps: [events] seconds.
            num_items: N.
            window: days that are looked back on, at least one.
        """
        pairs = np.stack([np.floor_divide(timestamps, DAY), items.astype(np.int64)])
        (days, of), counts = np.unique(pairs, axis=1, return_counts=True)
        model = cls(RecencyConfig(num_items, window, len(days)))
        for name, values in (("days_E", days), ("items_E", of), ("counts_E", counts)):
            getattr(model, name).copy_(torch.from_numpy(values.astype(np.int32)))
        model.eval()
        return model

    def widened(self, num_items: int) -> Recency:
        """The same counts among more items; what was added has been met by nobody."""
        wide = Recency(RecencyConfig(num_items, self.config.window, self.config.pairs))
        wide.load_state_dict(self.state_dict())
        wide.eval()
        return wide

    def forward(self, now_B: Tensor) -> Tensor:
        """Log-share of every item in the window before each request: [B, N]; 0 where the time is unknown."""
        scores_BN = torch.zeros(len(now_B), self.config.num_items)
        known_B = now_B != UNKNOWN_TIME
        if not known_B.any():
            return scores_BN
        day_B = now_B[known_B].div(DAY, rounding_mode="floor").int()
        day_Q, which_B = torch.unique(day_B, return_inverse=True)
        first_Q = torch.searchsorted(self.days_E, day_Q - self.config.window).tolist()
        last_Q = torch.searchsorted(self.days_E, day_Q).tolist()
        counts_QN = torch.full((len(day_Q), self.config.num_items), PRIOR)
        for counts_N, first, last in zip(counts_QN, first_Q, last_Q, strict=True):
            counts_N.index_add_(0, self.items_E[first:last], self.counts_E[first:last].float())
        scores_BN[known_B] = (counts_QN / counts_QN.sum(1, keepdim=True)).log()[which_B]
        return scores_BN


class RecencyRanker(Ranker):
    """Items by their recency at the time of the request."""

    name = RECENCY
    reads_time = True

    def __init__(self, model: Recency) -> None:
        self.model = model

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """The same for everybody who asks on one day: [B, N]."""
        scores_BN: Tensor = self.model(events.asked_at(users_B, ends_B))
        return scores_BN
