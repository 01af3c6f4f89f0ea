"""Recency: whole days before the request's own, the same for everybody of a day, nothing where times are unknown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.models import load_model
from prismrec.models.counted import Counted
from prismrec.models.events import UNKNOWN_TIME, EventTable
from prismrec.models.linear_transitions import LinearTransitions, LinearTransitionsConfig
from prismrec.models.recency import DAY, PRIOR, Recency, RecencyRanker

ITEMS = 6


def counted(window: int = 3, num_items: int = ITEMS) -> Recency:
    """Item 1 thrice on day 10, item 2 once on day 12, item 3 once on day 13."""
    days = np.array([10, 10, 10, 12, 13])
    return Recency.count(np.array([1, 1, 1, 2, 3]), days * DAY + np.arange(5), num_items, window)


def test_the_days_before_the_requests_own_are_counted() -> None:
    scores = counted()(torch.tensor([13 * DAY + 5]))[0]
    counts = torch.tensor([0.0, 3.0, 1.0, 0.0, 0.0, 0.0]) + PRIOR
    torch.testing.assert_close(scores, (counts / counts.sum()).log())


@pytest.mark.parametrize(("day", "known"), [(10, []), (11, [1]), (13, [1, 2]), (14, [2, 3]), (16, [3]), (17, [])])
def test_the_window_moves_on(day: int, known: list[int]) -> None:
    scores = counted()(torch.tensor([day * DAY]))[0]
    assert (scores > scores.min()).nonzero().flatten().tolist() == known
    assert torch.allclose(scores.exp().sum(), torch.tensor(1.0))


def test_unknown_times_say_the_same_of_all_items_and_times_before_1970_are_days_too() -> None:
    scores = counted()(torch.tensor([UNKNOWN_TIME, 11 * DAY, -1, UNKNOWN_TIME]))
    assert not scores[[0, 3]].any()
    assert scores[1].argmax() == 1
    assert scores[2].unique().numel() == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 20)), min_size=1, max_size=40), st.integers(0, 25))
def test_it_is_a_plain_count(events: list[tuple[int, int]], day: int) -> None:
    items, days = (np.array(part) for part in zip(*events, strict=True))
    scores = Recency.count(items, days * DAY + 7, ITEMS, window=4)(torch.tensor([day * DAY + 3]))[0]
    expected = np.array([((items == item) & (days < day) & (days >= day - 4)).sum() for item in range(ITEMS)]) + PRIOR
    np.testing.assert_allclose(scores.exp().numpy(), expected / expected.sum(), rtol=1e-5)


def test_a_ranker_asks_for_the_time_of_the_next_event_or_of_the_request() -> None:
    times = np.array([9, 11, 14, 9, 9]) * DAY
    table = EventTable(np.array([0, 3, 5]), np.array([0, 1, 2, 0, 1]), times, requests=np.array([13, 14]) * DAY)
    ranker = RecencyRanker(counted())
    users, ends = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2])
    assert table.asked_at(users, ends).tolist() == [11 * DAY, 13 * DAY, 14 * DAY]
    torch.testing.assert_close(ranker.scores(table, users, ends), ranker.model(torch.tensor([11, 13, 14]) * DAY))
    untimed = table.without_request_times(np.array([True, False]))
    assert untimed.asked_at(users, ends).tolist() == [UNKNOWN_TIME, UNKNOWN_TIME, 14 * DAY]
    alone = EventTable.joined([table.alone(1, 1), table.alone(0, 2)])
    assert alone.asked_at(torch.tensor([0, 1]), torch.tensor([1, 2])).tolist() == [9 * DAY, 14 * DAY]
    assert EventTable(np.array([0, 1]), np.array([0]), None).asked_at(torch.tensor([0]), torch.tensor([1])) < 0


def test_saved_widened_and_ranked_as_one_artefact(tmp_path: Path) -> None:
    transitions = LinearTransitions(LinearTransitionsConfig(ITEMS, 2, (0.0,)))
    transitions.columns_RM.copy_(torch.arange(2 * ITEMS).view(ITEMS, 2) % ITEMS)
    transitions.values_RM.fill_(0.25)
    Counted.of(transitions, counted()).save(tmp_path / "counted")
    found = load_model(tmp_path / "counted")
    assert [ranker.name for ranker in found.rankers()] == ["linear_transitions", "recency"]
    now = torch.tensor([13 * DAY])
    torch.testing.assert_close(found.recency(now), counted()(now))
    wide = found.widened(ITEMS + 2)
    torch.testing.assert_close(wide.recency(now), counted(num_items=ITEMS + 2)(now))
    history = torch.tensor([[3]]), torch.tensor([[True]])
    scores = wide.transitions(*history)
    assert torch.equal(scores[:, :ITEMS], found.transitions(*history))
    assert not scores[:, ITEMS:].any()
    assert found.widened(ITEMS) is found


def test_without_a_window_there_are_transitions_alone(tmp_path: Path) -> None:
    Counted.of(LinearTransitions(LinearTransitionsConfig(ITEMS, 2, ())), None).save(tmp_path / "counted")
    found = load_model(tmp_path / "counted").widened(ITEMS + 1)
    assert [ranker.name for ranker in found.rankers()] == ["linear_transitions"]
    assert found.config.num_items == ITEMS + 1
