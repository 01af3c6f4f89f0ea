"""One pass of a model for all rows that rest on it.

HyMiRec's merge asks its members for their scores, the unified model asks HyMiRec, GemiRec asks the LLM recommender for
its states, and each of them is a row of its own. Rows are ranked chunk by chunk (`evaluate.py`), so it is enough to
remember what was said of the last chunk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker

R = TypeVar("R", bound=Ranker)


class _Last:
    """A function of users' histories that answers the same question only once if it is asked twice in a row."""

    def __init__(self, function: Callable[[EventTable, Tensor, Tensor], Any]) -> None:
        self.function = function
        self.asked: tuple[EventTable, Tensor, Tensor] | None = None
        self.answer: Any = None

    def __call__(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Any:
        if self.asked is None or not (
            self.asked[0] is events and torch.equal(self.asked[1], users_B) and torch.equal(self.asked[2], ends_B)
        ):
            self.answer = self.function(events, users_B, ends_B)
            self.asked = events, users_B.clone(), ends_B.clone()
        return self.answer


def remembering(ranker: R, *methods: str) -> R:
    """The same ranker, whose `methods` remember their answer about the last chunk of users."""
    ranker = copy.copy(ranker)
    for method in methods:
        setattr(ranker, method, _Last(getattr(ranker, method)))
    return ranker
