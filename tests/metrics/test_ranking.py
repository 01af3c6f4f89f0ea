"""Ranking metrics: against a naive average over every way to break the ties."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.metrics.ranking import (
    CUTOFFS,
    TargetRank,
    concatenate,
    coverage,
    hit_rate,
    ndcg,
    rank_targets,
    ranking_metrics,
)


def over_all_tie_breaks(scores: list[float], target: int, k: int) -> tuple[float, float]:
    """Mean HR@k and NDCG@k over all orders of the items that sort the scores descending."""
    hits, gains = [], []
    for order in permutations(range(len(scores))):
        if any(scores[a] < scores[b] for a, b in pairwise(order)):
            continue
        place = order.index(target)
        hits.append(float(place < k))
        gains.append(1 / math.log2(place + 2) if place < k else 0.0)
    return sum(hits) / len(hits), sum(gains) / len(gains)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=6), st.integers(0, 5), st.integers(1, 8))
def test_ties_are_averaged_over_every_order(scores: list[int], target: int, k: int) -> None:
    target %= len(scores)
    rank = rank_targets(torch.tensor([scores], dtype=torch.float32), torch.tensor([target]))
    hits, gain = over_all_tie_breaks([float(score) for score in scores], target, k)
    assert hit_rate(rank, k)[0] == pytest.approx(hits, abs=1e-12)
    assert ndcg(rank, k)[0] == pytest.approx(gain, abs=1e-12)


def test_known_ranks() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, -torch.inf]])
    rank = rank_targets(scores, torch.tensor([0, 1, 2, 1]))
    assert rank.higher.tolist() == [0, 1, 2, 0]
    assert rank.tied.tolist() == [1, 1, 1, 2]
    assert hit_rate(rank, 1).tolist() == [1, 0, 0, 0.5]
    assert hit_rate(rank, 2).tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(ndcg(rank, 2), [1, 1 / math.log2(3), 0, (1 + 1 / math.log2(3)) / 2])


@pytest.mark.parametrize("k", [1, 10, 40, 100])
def test_a_constant_scorer_gets_exactly_chance_level(k: int) -> None:
    rank = rank_targets(torch.zeros(5, 40), torch.arange(5))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, 40)))
    np.testing.assert_allclose(hit_rate(rank, k), min(k, 40) / 40, rtol=1e-12)
    np.testing.assert_allclose(ndcg(rank, k), ideal / 40, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(1, 50))
def test_metrics_grow_with_k_and_stay_in_range(higher: int, tied: int) -> None:
    rank = TargetRank(torch.tensor([higher]), torch.tensor([tied]))
    hits = [float(hit_rate(rank, k)[0]) for k in range(1, 300, 7)]
    gains = [float(ndcg(rank, k)[0]) for k in range(1, 300, 7)]
    assert hits == sorted(hits)
    assert gains == sorted(gains)
    assert hits[-1] == 1
    for hit, gain in zip(hits, gains, strict=True):
        assert 0 <= gain <= hit <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_a_better_score_never_hurts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (1, 30), generator=generator).float()
    target = torch.tensor([7])
    before = rank_targets(scores, target)
    scores[0, 7] += 1
    after = rank_targets(scores, target)
    for k in (1, 5, 20):
        assert hit_rate(after, k)[0] >= hit_rate(before, k)[0]
        assert ndcg(after, k)[0] >= ndcg(before, k)[0]


def test_a_target_that_may_not_be_recommended_is_a_miss() -> None:
    """It scores -inf like everything excluded; short lists must not count it as found."""
    scores = torch.full((1, 12), -torch.inf)
    scores[0, :3] = torch.tensor([3.0, 2.0, 1.0])
    rank = rank_targets(scores, torch.tensor([11]))
    for k in (1, 10, 50):
        assert hit_rate(rank, k)[0] == 0
        assert ndcg(rank, k)[0] == 0


def test_undefined_scores_are_no_hits() -> None:
    """A diverged model scores NaN: that must stop the evaluation, never count as a perfect ranking."""
    with pytest.raises(AssertionError):
        rank_targets(torch.full((2, 30), torch.nan), torch.tensor([3, 4]))


def test_means_over_users_and_their_names() -> None:
    rank = TargetRank(torch.tensor([0, 15, 100]), torch.tensor([1, 1, 1]))
    metrics = ranking_metrics(rank)
    assert list(metrics) == [f"{name}@{k}" for k in CUTOFFS for name in ("hr", "ndcg")]
    assert metrics["hr@10"] == pytest.approx(1 / 3)
    assert metrics["hr@20"] == pytest.approx(2 / 3)
    assert metrics["ndcg@10"] == pytest.approx(1 / 3)
    assert metrics["ndcg@20"] == pytest.approx((1 + 1 / math.log2(17)) / 3)
    assert metrics["hr@50"] == metrics["hr@20"]
    assert set(ranking_metrics(rank, (5,))) == {"hr@5", "ndcg@5"}


def test_chunks_of_users_join_in_order() -> None:
    scores, targets = torch.rand(7, 20, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    whole = rank_targets(scores, targets)
    parts = concatenate([rank_targets(scores[:3], targets[:3]), rank_targets(scores[3:], targets[3:])])
    assert torch.equal(whole.higher, parts.higher)
    assert torch.equal(whole.tied, parts.tied)


def test_coverage_counts_distinct_items() -> None:
    assert coverage(np.array([[0, 1], [1, 2], [0, 2]]), 12) == 0.25
