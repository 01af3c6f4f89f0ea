"""Full ranking of cases: against a plain loop, under both history rules, in chunks of bounded size."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from prismrec.evaluation.evaluate import LENGTH, evaluate
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.metrics.ranking import NEVER, per_user_metrics
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker
from prismrec.retrieval import chunks

module = importlib.import_module("prismrec.evaluation.evaluate")  # the package has a function of this name


class TableRanker(Ranker):
    """A score for every user and item, written down; remembers the sizes it was asked for."""

    name = "table"

    def __init__(self, scores_UN: torch.Tensor, num_interests: int = 1) -> None:
        self.scores_UN, self.num_interests = scores_UN, num_interests
        self.asked: list[int] = []

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(users_B))
        return self.scores_UN[users_B]


def world(
    users: int = 50, items: int = 30, seed: int = 0, history: Literal["filtered", "kept"] = "filtered"
) -> tuple[EventTable, Cases, torch.Tensor]:
    """Random histories with repeats, several targets each; some items without any event are not recommendable."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 15, users)
    events = EventTable(np.concatenate([[0], np.cumsum(lengths)]), rng.integers(0, items - 4, lengths.sum()), None)
    starts = rng.integers(1, lengths)
    recommendable = torch.arange(items) < items - 4
    return events, make_cases(events, starts, lengths, history), recommendable


GROWTH = """
import numpy as np, torch
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.protocols import make_cases
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

class Noise(Ranker):
    def scores(self, events, users_B, ends_B):
        seen.append(resident())
        return torch.randn(len(users_B), ITEMS)

USERS, ITEMS, seen = 12 * 128, 12_000, []
events = EventTable(np.arange(USERS + 1) * 3, np.tile(np.arange(3), USERS), None)
starts = np.full(USERS, 2)
cases = make_cases(events, starts, starts + 1, "filtered")
evaluate({str(n): Noise() for n in range(5)}, events, cases, torch.ones(ITEMS, dtype=torch.bool), "filtered")
print(max(seen) - seen[10])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_the_chunks() -> None:
    """Kept results once left holes between freed scores: 40 MB a chunk here, 12 GB on Amazon Beauty."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100


class Turned(TableRanker):
    """Lists what may be shown from its end."""

    def listed(self, scores_BN: torch.Tensor, left_BN: torch.Tensor) -> torch.Tensor:
        return torch.where(left_BN > -torch.inf, -scores_BN, -torch.inf)


def test_places_and_lists_go_by_the_rankers_own_order() -> None:
    events, cases, recommendable = world()
    scores = torch.randn(50, 30)
    rankers = {"turned": Turned(scores), "expected": TableRanker(-scores), "plain": TableRanker(scores)}
    found = evaluate(rankers, events, cases, recommendable, "filtered")
    means = {name: per_user_metrics(row.ranks)["ndcg@10"].mean() for name, row in found.items()}
    assert means["turned"] == means["expected"] != means["plain"]
    assert np.array_equal(found["turned"].lists_CK, found["expected"].lists_CK)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads, and puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("history", ["filtered", "kept"])
@pytest.mark.parametrize("number", [1, 3])
def test_places_and_lists_are_those_of_a_loop(
    history: Literal["filtered", "kept"],
    number: int,
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks of seven users, ranked two at a time on each of so many threads."""
    threads(number)
    monkeypatch.setattr(chunks, "MOST_USERS", 7)
    monkeypatch.setattr(module, "SLICE", 2 * 30)
    events, cases, recommendable = world(history=history)
    ranker = TableRanker(torch.randint(0, 9, (50, 30), generator=torch.Generator().manual_seed(0)).float())
    ranks, lists = evaluate({"table": ranker}, events, cases, recommendable, history)["table"]
    assert len(ranker.asked) == -(-len(cases.users_C) // 7)
    assert sum(ranker.asked) == len(cases.users_C), "everybody is scored once"
    assert (lists.dtype, lists.shape) == (np.int32, (len(cases.users_C), LENGTH))
    for case, user in enumerate(cases.users_C):
        first = int(events.offsets_U1[user])
        seen = set(events.items_E[first : first + cases.starts_C[case]].tolist()) if history == "filtered" else set()
        scores = {item: float(ranker.scores_UN[user, item]) for item in range(26) if item not in seen}
        order = sorted(scores, key=lambda item: (-scores[item], item))
        assert lists[case].tolist() == order + [-1] * (LENGTH - len(order))
        for target, place in zip(cases.targets_CT[case][cases.mask_CT[case]], range(30), strict=False):
            assert ranks.higher_CT[case, place] == sum(score > scores[target] for score in scores.values())
            assert ranks.tied_CT[case, place] == sum(score == scores[target] for score in scores.values())
    assert torch.equal(ranks.mask_CT, torch.from_numpy(cases.mask_CT))


def test_a_score_that_is_no_number_is_refused_on_every_thread(threads: Callable[[int], None]) -> None:
    threads(3)
    events, cases, recommendable = world()
    scores = torch.randn(50, 30)
    scores[17, 3] = torch.nan
    with pytest.raises(AssertionError, match="NaN"):
        evaluate({"table": TableRanker(scores)}, events, cases, recommendable, "kept")


def test_without_lists_places_are_the_same() -> None:
    events, cases, recommendable = world()
    ranker = TableRanker(torch.randn(50, 30, generator=torch.Generator().manual_seed(0)))
    whole = evaluate({"table": ranker}, events, cases, recommendable, "filtered")["table"]
    bare = evaluate({"table": ranker}, events, cases, recommendable, "filtered", lists=False)["table"]
    assert all(torch.equal(a, b) for a, b in zip(bare.ranks, whole.ranks, strict=True))
    assert bare.lists_CK.shape == (len(cases.users_C), 0)


def test_a_constant_scorer_gets_chance_level() -> None:
    events, cases, recommendable = world(users=400, items=64)
    ranked = evaluate({"constant": TableRanker(torch.zeros(400, 64))}, events, cases, recommendable, "filtered")
    recall = per_user_metrics(ranked["constant"].ranks)["recall@10"]
    left = [
        60 - len(set(events.items_E[int(events.offsets_U1[user]) :][:start].tolist()))
        for user, start in zip(cases.users_C, cases.starts_C, strict=True)
    ]
    np.testing.assert_allclose(recall, 10 / np.array(left))


def test_under_the_kept_rule_a_target_of_the_history_can_be_found() -> None:
    """And under the filtered rule it is counted as left out: it is lost in neither."""
    events = EventTable(np.array([0, 4]), np.array([0, 1, 2, 1]), None)
    ranker = TableRanker(torch.tensor([[0.0, 9.0, 0.0, 0.0]]))
    starts, ends, all_items = np.array([3]), np.array([4]), torch.ones(4, dtype=torch.bool)
    kept = make_cases(events, starts, ends, "kept")
    found = evaluate({"table": ranker}, events, kept, all_items, "kept")["table"]
    assert kept.repeated == 1
    assert found.lists_CK[0, 0] == 1
    assert per_user_metrics(found.ranks)["hr@10"].tolist() == [1.0]
    filtered = make_cases(events, starts, ends, "filtered")
    assert (len(filtered.users_C), filtered.left_out) == (0, 1)


def test_a_target_that_may_not_be_recommended_is_a_bug() -> None:
    events, cases, recommendable = world()
    recommendable[cases.targets_CT[0, 0]] = False
    with pytest.raises(AssertionError, match="may not be recommended"):
        evaluate({"table": TableRanker(torch.zeros(50, 30))}, events, cases, recommendable, "filtered")
    assert NEVER > 30


def test_no_ranker_is_asked_for_more_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranker that holds most sets the chunk; the results are those of one large chunk."""
    events, cases, recommendable = world(users=200, items=500)
    scores = torch.randn(200, 500, generator=torch.Generator().manual_seed(1))
    whole = evaluate({"one": TableRanker(scores)}, events, cases, recommendable, "filtered")["one"]
    monkeypatch.setattr(chunks, "SCORES", 20_000)
    one, four = TableRanker(scores), TableRanker(scores, num_interests=4)
    found = evaluate({"one": one, "four": four}, events, cases, recommendable, "filtered")
    assert max(one.asked) == max(four.asked) == 20_000 // (500 * 4)
    for row in found.values():
        assert all(torch.equal(a, b) for a, b in zip(row.ranks, whole.ranks, strict=True))
        assert (row.lists_CK == whole.lists_CK).all()
