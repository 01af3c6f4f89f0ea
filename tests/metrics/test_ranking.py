"""Ranking metrics: against a naive average over every way to break the ties, and against torchmetrics."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from prismrec.metrics import ranking
from prismrec.metrics.ranking import (
    CUTOFFS,
    METRICS,
    NEVER,
    TargetRanks,
    nowhere,
    per_user_metrics,
    rank_targets,
    ranking_metrics,
)

ORACLE = {
    "hr": retrieval_hit_rate,
    "recall": retrieval_recall,
    "ndcg": retrieval_normalized_dcg,
    "mrr": retrieval_reciprocal_rank,
}


def ranks_of(scores: torch.Tensor, targets: list[list[int]]) -> TargetRanks:
    """Ranks of targets given as lists of different lengths."""
    width = max(len(row) for row in targets)
    padded = torch.tensor([row + [-1] * (width - len(row)) for row in targets])
    return rank_targets(scores, padded, padded >= 0)


def one_target(higher: int, tied: int) -> TargetRanks:
    return TargetRanks(torch.tensor([[higher]]), torch.tensor([[tied]]), torch.tensor([[True]]))


def random_case(seed: int, users: int, items: int, levels: int) -> tuple[torch.Tensor, list[list[int]]]:
    """Scores of few levels, or all different when `levels` is 0, and one to five targets a user."""
    rng = np.random.default_rng(seed)
    scores = (
        rng.integers(0, levels, (users, items))
        if levels
        else rng.permuted(np.tile(np.arange(items), (users, 1)), axis=1)
    )
    targets = [rng.permutation(items)[: rng.integers(1, 6)].tolist() for _ in range(users)]
    return torch.tensor(scores, dtype=torch.float32), targets


def naive(order: tuple[int, ...], targets: list[int], k: int) -> list[float]:
    """HR, Recall, NDCG and MRR of one order of the items."""
    places = sorted(order.index(target) for target in targets if order.index(target) < k)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(targets), k)))
    return [
        float(bool(places)),
        len(places) / len(targets),
        sum(1 / math.log2(place + 2) for place in places) / ideal,
        1 / (places[0] + 1) if places else 0.0,
    ]


def every_order(scores: list[int]) -> list[tuple[int, ...]]:
    """All orders of the items that sort the scores descending."""
    orders = permutations(range(len(scores)))
    return [order for order in orders if all(scores[a] >= scores[b] for a, b in pairwise(order))]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-1, 1), min_size=1, max_size=6), st.data())
def test_ties_are_averaged_over_every_order(scores: list[int], data: st.DataObject) -> None:
    targets = data.draw(st.lists(st.integers(0, len(scores) - 1), min_size=1, unique=True))
    k = data.draw(st.integers(1, 8))
    found = per_user_metrics(ranks_of(torch.tensor([scores], dtype=torch.float32), [targets]), (k,))
    expected = np.mean([naive(order, targets, k) for order in every_order(scores)], axis=0)
    np.testing.assert_allclose([found[f"{name}@{k}"][0] for name in METRICS], expected, atol=1e-12)


def by_torchmetrics(scores: torch.Tensor, targets: list[int], k: int) -> list[float]:
    """HR, Recall, NDCG and MRR of one user.

    Two habits of torchmetrics: targets with a score of 0 or less never count, so scores here are positive; its NDCG
    takes differences of a running sum, which in single precision loses the sixth digit, so it runs in double.
    """
    relevant = torch.zeros(len(scores), dtype=torch.bool)
    relevant[targets] = True
    torch.set_default_dtype(torch.float64)
    try:
        return [float(ORACLE[name](scores.double(), relevant, top_k=k)) for name in METRICS]
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_torchmetrics_without_ties(seed: int) -> None:
    scores, targets = random_case(seed, 20, 150, levels=0)
    found = per_user_metrics(ranks_of(scores, targets), CUTOFFS)
    for user, chosen in enumerate(targets):
        for k in CUTOFFS:
            ours = [found[f"{name}@{k}"][user] for name in METRICS]
            np.testing.assert_allclose(ours, by_torchmetrics(scores[user] + 1, chosen, k), atol=1e-6)


def test_equal_to_the_mean_of_torchmetrics_over_every_order_of_ties() -> None:
    scores, targets = random_case(5, 5, 6, levels=3)
    found = per_user_metrics(ranks_of(scores, targets), (1, 3, 5))
    for user, chosen in enumerate(targets):
        orders = every_order(scores[user].int().tolist())
        for k in (1, 3, 5):
            ours = [found[f"{name}@{k}"][user] for name in METRICS]
            theirs = [by_torchmetrics(6.0 - torch.tensor(order).argsort(), chosen, k) for order in orders]
            np.testing.assert_allclose(ours, np.mean(theirs, axis=0), atol=1e-6)


def test_known_ranks() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, -torch.inf]])
    ranks = ranks_of(scores, [[0], [1], [2], [1]])
    assert ranks.higher_CT[:, 0].tolist() == [0, 1, 2, 0]
    assert ranks.tied_CT[:, 0].tolist() == [1, 1, 1, 2]
    found = per_user_metrics(ranks, (1, 2))
    assert found["hr@1"].tolist() == [1, 0, 0, 0.5]
    assert found["hr@2"].tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(found["ndcg@2"], [1, 1 / math.log2(3), 0, (1 + 1 / math.log2(3)) / 2])
    np.testing.assert_allclose(found["mrr@2"], [1, 0.5, 0, 0.75])


def test_known_ranks_of_several_targets() -> None:
    """Places 2 and 4 of five; and one sure place with two targets among three tied items below it."""
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0], [9.0, 1.0, 1.0, 1.0, 0.0]])
    found = per_user_metrics(ranks_of(scores, [[1, 3], [1, 2]]), (2, 4))
    np.testing.assert_allclose(found["hr@2"], [1, 2 / 3])
    np.testing.assert_allclose(found["recall@2"], [0.5, 1 / 3])
    np.testing.assert_allclose(found["mrr@2"], [0.5, 2 / 3 * 0.5])
    np.testing.assert_allclose(found["mrr@4"], [0.5, 2 / 3 * 0.5 + 1 / 3 * 1 / 3])
    np.testing.assert_allclose(found["ndcg@4"][0], (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize("k", [1, 10, 40, 100])
def test_a_constant_scorer_gets_exactly_chance_level(k: int) -> None:
    found = per_user_metrics(ranks_of(torch.zeros(5, 40), [[user] for user in range(5)]), (k,))
    places = np.arange(1, min(k, 40) + 1)
    np.testing.assert_allclose(found[f"hr@{k}"], len(places) / 40, rtol=1e-12)
    np.testing.assert_allclose(found[f"recall@{k}"], len(places) / 40, rtol=1e-12)
    np.testing.assert_allclose(found[f"ndcg@{k}"], (1 / np.log2(places + 1)).sum() / 40, rtol=1e-12)
    np.testing.assert_allclose(found[f"mrr@{k}"], (1 / places).sum() / 40, rtol=1e-12)


def test_a_constant_scorer_with_several_targets_gets_chance_level() -> None:
    found = per_user_metrics(ranks_of(torch.zeros(1, 40), [[3, 7, 11]]), (10,))
    missed = math.comb(30, 3) / math.comb(40, 3)
    assert found["hr@10"][0] == pytest.approx(1 - missed, abs=1e-12)
    assert found["recall@10"][0] == pytest.approx(10 / 40, abs=1e-12)


def test_a_perfect_scorer_gets_one() -> None:
    _, targets = random_case(0, 30, 60, levels=0)
    scores = torch.zeros(30, 60)
    for user, chosen in enumerate(targets):
        scores[user, chosen] = 1.0
    for name, values in per_user_metrics(ranks_of(scores, targets), (5, 10)).items():
        np.testing.assert_allclose(values, 1, rtol=1e-12, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(1, 50))
def test_one_target(higher: int, tied: int) -> None:
    """Metrics grow with k and stay in range; HR is Recall, and both keep their closed form."""
    cutoffs = tuple(range(1, 300, 7))
    found = {name: float(v[0]) for name, v in per_user_metrics(one_target(higher, tied), cutoffs).items()}
    for name in METRICS:
        values = [found[f"{name}@{k}"] for k in cutoffs]
        assert all(after >= before - 1e-12 for before, after in pairwise(values))
    for k in cutoffs:
        assert found[f"hr@{k}"] == pytest.approx(min(max(k - higher, 0) / tied, 1), abs=1e-12)
        assert found[f"recall@{k}"] == pytest.approx(found[f"hr@{k}"], abs=1e-12)
        assert 0 <= found[f"mrr@{k}"] <= found[f"ndcg@{k}"] + 1e-12 <= found[f"hr@{k}"] + 2e-12 <= 1 + 2e-12
    assert found[f"hr@{cutoffs[-1]}"] == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 4))
def test_several_targets_stay_in_range_and_in_order(seed: int, levels: int) -> None:
    scores, targets = random_case(seed, 4, 30, levels)
    found = per_user_metrics(ranks_of(scores, targets), (1, 5, 20, 30))
    for values in found.values():
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    for name in ("hr", "recall", "mrr"):
        for low, high in pairwise((1, 5, 20, 30)):
            assert (found[f"{name}@{high}"] >= found[f"{name}@{low}"] - 1e-12).all()
    assert (found["hr@5"] >= found["recall@5"] - 1e-12).all()
    np.testing.assert_allclose(found["recall@30"], 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_order_of_users_items_and_targets_does_not_matter(seed: int, levels: int) -> None:
    scores, targets = random_case(seed, 5, 25, levels)
    rng = np.random.default_rng(seed)
    users, items = rng.permutation(5), rng.permutation(25)
    place = np.argsort(items)
    moved = ranks_of(scores[users][:, items], [place[targets[user]][::-1].tolist() for user in users])
    before, after = per_user_metrics(ranks_of(scores, targets), (1, 10)), per_user_metrics(moved, (1, 10))
    for name, values in before.items():
        np.testing.assert_allclose(values[users], after[name], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_a_better_score_never_hurts(seed: int) -> None:
    scores, targets = random_case(seed, 1, 30, levels=4)
    before = per_user_metrics(ranks_of(scores, targets), (1, 5, 20))
    scores[0, targets[0][0]] += 1
    after = per_user_metrics(ranks_of(scores, targets), (1, 5, 20))
    for name in before:
        assert after[name][0] >= before[name][0] - 1e-12


def test_a_target_that_may_not_be_recommended_is_a_miss() -> None:
    """It scores -inf like everything excluded; short lists must not count it as found."""
    scores = torch.full((1, 12), -torch.inf)
    scores[0, :3] = torch.tensor([3.0, 2.0, 1.0])
    ranks = ranks_of(scores, [[11]])
    assert ranks.higher_CT[0, 0] == NEVER
    assert all(values[0] == 0 for values in per_user_metrics(ranks).values())
    both = per_user_metrics(ranks_of(scores, [[11, 1]]), (10,))
    assert (both["hr@10"][0], both["recall@10"][0], both["mrr@10"][0]) == (1, 0.5, 0.5)


def test_undefined_scores_stop_the_evaluation() -> None:
    """A diverged model scores NaN, at the target or elsewhere: that must never count as a good ranking."""
    with pytest.raises(AssertionError):
        ranks_of(torch.full((2, 30), torch.nan), [[3], [4]])
    scores = torch.zeros(1, 30)
    scores[0, 1] = torch.nan
    with pytest.raises(AssertionError):
        ranks_of(scores, [[3]])


def test_a_target_listed_twice_stops_the_evaluation() -> None:
    with pytest.raises(AssertionError):
        per_user_metrics(ranks_of(torch.arange(9.0)[None], [[4, 4]]))


def test_a_user_without_a_target_is_not_counted() -> None:
    ranks = ranks_of(torch.zeros(2, 4), [[1], []])
    assert np.isnan(per_user_metrics(ranks, (2,))["hr@2"]).tolist() == [False, True]
    with pytest.raises(AssertionError):
        ranking_metrics(ranks)
    with pytest.raises(AssertionError):
        ranking_metrics(TargetRanks(*(part[:0] for part in ranks)))


def test_means_over_users_and_their_names() -> None:
    ranks = nowhere(torch.ones(3, 1, dtype=torch.bool))
    for user, place in enumerate((0, 15, 200)):
        ranks.put(slice(user, user + 1), one_target(place, 1))
    metrics = ranking_metrics(ranks)
    assert list(metrics) == [f"{name}@{k}" for k in CUTOFFS for name in METRICS]
    assert metrics["hr@10"] == pytest.approx(1 / 3)
    assert metrics["hr@20"] == pytest.approx(2 / 3)
    assert metrics["ndcg@10"] == pytest.approx(1 / 3)
    assert metrics["ndcg@20"] == pytest.approx((1 + 1 / math.log2(17)) / 3)
    assert metrics["mrr@20"] == pytest.approx((1 + 1 / 16) / 3)
    assert metrics["hr@100"] == metrics["hr@20"]
    assert set(ranking_metrics(ranks, (5,))) == {f"{name}@5" for name in METRICS}


def test_chunks_of_users_join_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is padded never counts, and the size of chunks changes nothing."""
    scores, targets = random_case(1, 9, 20, levels=3)
    targets[0], targets[5] = targets[0][:1], [0, 1, 2, 3, 4, 5, 6]
    whole = ranks_of(scores, targets)
    joined = nowhere(whole.mask_CT)
    for chunk in (slice(0, 1), slice(1, 4), slice(4, 9)):
        joined.put(chunk, TargetRanks(*(part[chunk] for part in whole)))
    for part, other in zip(whole, joined, strict=True):
        assert torch.equal(part, other)
    before = per_user_metrics(whole)
    monkeypatch.setattr(ranking, "CHUNK", 4)
    for name, values in per_user_metrics(joined).items():
        assert np.array_equal(values, before[name])
