"""One pass of a model for all that rests on it.

HyMiRec's merge asks its members for their scores, the unified model asks them and GemiRec, and GemiRec asks the LLM
recommender for its states, as refined interests do. The evaluation ranks all of them chunk by chunk, a request asks for
one user: either way it is enough to remember the answer to the last question.

Only for models that no longer learn: an answer is not computed anew because a weight has changed.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker

R = TypeVar("R", bound=Ranker)


class Remembered:
    """A function of users' histories that computes its answer once if the same is asked several times in a row."""

    def __init__(self, function: Callable[[EventTable, Tensor, Tensor], Any]) -> None:
        self.function = function
        self.events: weakref.ref[EventTable] | None = None
        self.users_B = self.ends_B = torch.empty(0)
        self.answer: Any = None

    def __call__(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Any:
        """The function's answer."""
        if (
            self.events is None
            or self.events() is not events
            or not torch.equal(self.users_B, users_B)
            or not torch.equal(self.ends_B, ends_B)
        ):
            self.answer = self.function(events, users_B, ends_B)
            self.events, self.users_B, self.ends_B = weakref.ref(events), users_B.clone(), ends_B.clone()
        return self.answer


def remembering(ranker: R, *methods: str) -> R:
    """The same ranker, whose `methods` remember their answer to the last question."""
    ranker = copy.copy(ranker)
    for method in methods:
        setattr(ranker, method, Remembered(getattr(ranker, method)))
    return ranker


def forgetting(ranker: R) -> R:
    """The same ranker without remembered answers, for one that is about to be changed."""
    ranker = copy.copy(ranker)
    for name in [name for name, value in vars(ranker).items() if isinstance(value, Remembered)]:
        delattr(ranker, name)
    return ranker
