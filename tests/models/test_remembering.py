"""One pass of a model for all rows that rest on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prismrec.models.events import EventTable
from prismrec.models.loading import load_rankers
from prismrec.models.rankers import Ranker
from prismrec.models.recommender import Recommender
from prismrec.models.remembering import forgetting, remembering
from serving.bundles import parts


class Counting(Ranker):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        self.asked.append(len(users_B))
        return users_B.float()[:, None] + ends_B


def table(length: int) -> EventTable:
    return EventTable(torch.tensor([0, length]).numpy(), torch.zeros(length, dtype=torch.int64).numpy(), None)


def test_the_same_question_is_answered_once() -> None:
    counting, events = Counting(), table(3)
    ranker = remembering(counting, "scores")
    users, ends = torch.tensor([0, 0]), torch.tensor([1, 2])
    first = ranker.scores(events, users, ends)
    assert torch.equal(ranker.scores(events, users.clone(), ends.clone()), first)
    assert torch.equal(first, counting.scores(events, users, ends))
    assert counting.asked == [2, 2]


def test_another_question_is_answered_anew() -> None:
    counting, events = Counting(), table(3)
    ranker = remembering(counting, "scores")
    users, ends = torch.tensor([0]), torch.tensor([1])
    ranker.scores(events, users, ends)
    ends[0] = 2  # in place: the question has changed all the same
    assert float(ranker.scores(events, users, ends)) == 2.0
    ranker.scores(table(3), users, ends)
    ranker.scores(events, torch.tensor([0, 0]), torch.tensor([2, 2]))
    assert len(counting.asked) == 4


def test_a_copy_that_forgets_computes_anew() -> None:
    counting, events = Counting(), table(3)
    ranker = remembering(counting, "scores")
    users, ends = torch.tensor([0]), torch.tensor([1])
    ranker.scores(events, users, ends)
    forgetting(ranker).scores(events, users, ends)
    ranker.scores(events, users, ends)
    assert len(counting.asked) == 2


def test_a_request_is_one_pass_of_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HyMiRec and GemiRec in the served unified model share the recommender's states."""
    parts().save(tmp_path / "bundle")
    passes = []
    forward = Recommender.forward
    monkeypatch.setattr(Recommender, "forward", lambda *args: passes.append(1) or forward(*args))
    rankers = load_rankers(tmp_path / "bundle")
    for number, name in enumerate(("prismrec", "hymirec"), 1):
        rankers[name].rank(np.array([1, 2, 3]), None, None)
        assert len(passes) == number
