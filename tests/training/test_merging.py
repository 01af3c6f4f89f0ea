"""Weights of the merge: the likelihood's maximum, never a loss against a single member, negative ones left out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from models.test_rankers import RECOMMENDABLE, gemirec, merged
from prismrec.models.events import UNKNOWN_GAP, EventTable
from prismrec.models.merge import Merge, MergeConfig
from prismrec.models.rankers import Ranker
from prismrec.training import merging
from prismrec.training.merging import fit_merge
from prismrec.training.sequences import TrainingData
from training.small import NUM_ITEMS, Walks, next_item, random_lengths


class Fixed(Ranker):
    """Scores by a rule on the last item of a history."""

    def __init__(self, name: str, rule: Callable[[Tensor], Tensor]) -> None:
        self.name, self.rule = name, rule

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        return self.rule(events.item_at(users_B, ends_B - 1))


def noise(seed: int) -> Fixed:
    table = torch.randn(NUM_ITEMS, NUM_ITEMS, generator=torch.Generator().manual_seed(seed))
    return Fixed(f"noise {seed}", lambda last_B: table[last_B])


def right(strength: float = 1.0) -> Fixed:
    table = torch.randn(NUM_ITEMS, NUM_ITEMS, generator=torch.Generator().manual_seed(99))
    table[torch.arange(NUM_ITEMS), next_item(torch.arange(NUM_ITEMS))] += strength
    return Fixed("right", lambda last_B: table[last_B])


WALKS = Walks(random_lengths(users=120))


def alike(seed: int, share: float) -> dict[str, Ranker]:
    """The truth, two members that share most of their noise, one that has it turned round, and noise of its own."""
    common, own = (noise(10 * seed + n) for n in range(2))
    truth = right(4.0)

    def blend(of_truth: float, of_common: float, of_own: float) -> Callable[[Tensor], Tensor]:
        return lambda last_B: (
            of_truth * truth.rule(last_B) + of_common * common.rule(last_B) + of_own * own.rule(last_B)
        )

    return {
        "first": Fixed("first", blend(0.3, share, 0.1)),
        "second": Fixed("second", blend(0.2, share, -0.1)),
        "turned": Fixed("turned", blend(-0.2, 0.5, 0.2)),
        "noise": noise(10 * seed + 2),
    }


@given(st.integers(0, 20), st.floats(0.3, 3.0))
def test_the_likeliest_weights_are_those_of_a_bounded_optimiser(seed: int, share: float) -> None:
    """With members that share noise, whose free maximum has large weights of both signs."""
    cases = merging._cases(alike(seed, share), WALKS.data(), WALKS.data().events)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        found = merging._likelihood(torch.from_numpy(weights), cases)
        return -found.value, -found.gradient_M.numpy()

    start = np.full(cases.scores_MCN.shape[0], 0.25)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start), options={"ftol": 1e-12})
    found = merging._most_likely(cases)
    assert (found >= 0).all()
    assert merging._likelihood(found, cases).value >= -best.fun - 1e-5


def test_the_climb_tries_a_member_again_that_was_left_out() -> None:
    cases = merging._cases({"noise": noise(1), "right": right(3.0)}, WALKS.data(), WALKS.data().events)
    found = merging._climb(torch.tensor([1.0, 0.0], dtype=torch.float64), cases)
    assert found[1] > 0
    assert merging._ndcg(found, cases) > merging._ndcg(torch.tensor([1.0, 0.0], dtype=torch.float64), cases)


def test_gradient_and_curvature_are_those_of_the_value() -> None:
    cases = merging._cases({"right": right(), "noise": noise(1)}, WALKS.data(), WALKS.data().events)
    at, step = torch.tensor([0.7, 0.2], dtype=torch.float64), 1e-3
    here = merging._likelihood(at, cases)
    for m in range(2):
        move = torch.zeros(2, dtype=torch.float64)
        move[m] = step
        up, down = merging._likelihood(at + move, cases), merging._likelihood(at - move, cases)
        assert abs((up.value - down.value) / (2 * step) - here.gradient_M[m]) < 1e-3
        torch.testing.assert_close(
            (down.gradient_M - up.gradient_M) / (2 * step), here.curvature_MM[m], atol=2e-3, rtol=2e-2
        )


def test_the_merge_is_no_worse_than_any_member() -> None:
    figures = fit_merge({"noise": noise(3), "right": right(2.0)}, WALKS.data()).figures
    assert figures["ndcg@10"] >= figures["ndcg@10_right"] > figures["ndcg@10_noise"]
    assert figures["ndcg@10_without_right"] < figures["ndcg@10"]


def test_a_member_that_speaks_against_the_truth_gets_no_weight() -> None:
    wrong = right(2.0)
    merge = fit_merge({"right": right(2.0), "wrong": Fixed("wrong", lambda last_B: -wrong.rule(last_B))}, WALKS.data())
    weights = merge.merge.weights()
    assert weights["right"] > 0
    assert weights["wrong"] == weights["wrong_time_free"] == 0


def test_weights_without_times_are_fitted_on_their_own() -> None:
    """A member that knows the truth from times alone counts where there are times."""
    table = right(4.0)

    class Clock(Ranker):
        name = "clock"

        def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
            known_B = events.cut(users_B, ends_B - 1, ends_B).until_BL != UNKNOWN_GAP
            return table.scores(events, users_B, ends_B) * known_B

    weights = fit_merge({"noise": noise(5), "clock": Clock()}, WALKS.data()).merge.weights()
    assert weights["clock"] > weights["noise"]
    assert weights["noise_time_free"] != weights["noise"]


def test_a_constant_member_changes_nothing() -> None:
    constant = Fixed("constant", lambda last_B: torch.ones(len(last_B), NUM_ITEMS))
    alone, both = (
        fit_merge(members, WALKS.data()) for members in ({"right": right()}, {"right": right(), "constant": constant})
    )
    assert both.figures["ndcg@10"] == alone.figures["ndcg@10"]


@given(st.floats(1e-4, 1e4))
def test_the_scale_of_a_members_scores_does_not_matter(scale: float) -> None:
    """Regressed indicators, as linear transitions give, lie thousands of times closer together than log-likelihoods."""
    truth = right(3.0)
    plain, scaled = (
        merging._cases(
            {"noise": noise(2), "right": Fixed("right", lambda last_B, by=by: by * truth.rule(last_B))},
            WALKS.data(), WALKS.data().events,
        )
        for by in (1.0, scale)
    )  # fmt: skip
    torch.testing.assert_close(
        merging._most_likely(scaled)[1] * scale, merging._most_likely(plain)[1], rtol=1e-2, atol=0
    )
    left_out = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert merging._climb(left_out, scaled)[1] > 0


def test_rivals_stay_where_they_rank_better() -> None:
    """What the climb finds is kept against worse weights, and gives way to better ones; both are among the figures."""
    members = {"right": right(), "noise": noise(0)}
    names, found = tuple(members), fit_merge(members, WALKS.data())
    worse = Merge(MergeConfig(names))
    worse.timed_M[1] = worse.timeless_M[1] = 1.0
    against_worse = fit_merge(members, WALKS.data(), {"worse": worse})
    assert against_worse.merge.weights() == found.merge.weights()
    assert against_worse.figures["ndcg@10_worse"] < against_worse.figures["ndcg@10"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "_climb", lambda weights_M, cases: worse.timed_M)
        against_better = fit_merge(members, WALKS.data(), {"better": found.merge})
    for name, weight in found.merge.weights().items():
        assert against_better.merge.weights()[name] == pytest.approx(weight, rel=1e-2)
    assert against_better.figures["ndcg@10"] == against_better.figures["ndcg@10_better"] == found.figures["ndcg@10"]


def random_cases(seed: int, targets: int) -> merging.Cases:
    """Two members who mostly agree, rounded so that scores tie, and one who says the same of every item."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(60, 80, generator=generator)
    own = torch.randn(2, 60, 80, generator=generator)
    excluded = torch.rand(60, 80, generator=generator) < 0.2
    wanted = torch.rand(60, 80, generator=generator).masked_fill(excluded, -1.0).topk(targets).indices
    mask = torch.rand(60, targets, generator=generator) < 0.7
    mask[:, 0] = True
    scores = torch.cat([((common + 0.4 * own) * 8).round(), torch.ones(1, 60, 80)]).masked_fill_(excluded, 0.0)
    return merging.Cases(scores, excluded, wanted, mask, merging._spread(scores, excluded))


@given(
    st.integers(0, 1000),
    st.integers(1, 3),
    st.lists(st.just(0.0) | st.floats(0.01, 5.0), min_size=2, max_size=2).filter(any),
)
def test_only_contested_cases_have_an_ndcg_that_weights_decide(seed: int, targets: int, found: list[float]) -> None:
    cases = random_cases(seed, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "WORTH_A_COPY", 1.0)
        contested = merging._contested(cases)
    assert 0 < len(contested.targets_CT) < len(cases.targets_CT)
    weights = torch.tensor([*found, 1.0], dtype=torch.float64)
    of_all, of_contested = merging._ndcg_of_each(weights, cases), merging._ndcg_of_each(weights, contested)
    np.testing.assert_allclose(of_all.sum(), of_contested.sum(), rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_climb_ends_where_it_would_on_all_cases(seed: int) -> None:
    cases = random_cases(seed, 1)
    start = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    contested = merging._contested(cases)
    assert len(contested.targets_CT) < len(cases.targets_CT) / 2
    assert torch.equal(merging._climb(start, contested), merging._climb(start, cases))


def test_fewer_cases_are_looked_at_where_all_do_not_fit(monkeypatch) -> None:
    monkeypatch.setattr(merging, "HELD_SCORES", 10 * NUM_ITEMS * 2)
    assert fit_merge({"right": right(), "noise": noise(0)}, WALKS.data()).figures["users"] <= 10


def test_a_beam_of_a_large_dictionary_can_be_weighed() -> None:
    """Cells that it does not find are unlikely, not impossible: nothing is NaN, and no target has likelihood zero."""
    known = np.flatnonzero(RECOMMENDABLE)
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(known)[:8] for _ in range(40)])
    events = EventTable(np.arange(41) * 8, items, 1_000_000_000 + np.cumsum(rng.integers(0, 5000, len(items))))
    ends = np.full(40, 7)
    data = TrainingData(events, ends - 1, ends - 1, ends, RECOMMENDABLE.numpy(), 40, 0)
    fitted = fit_merge({"hymirec": merged(), "gemirec": gemirec(max_cells=11, beam=2)}, data)
    assert np.isfinite(list(fitted.figures.values())).all()
    assert fitted.figures["ndcg@10"] >= max(fitted.figures["ndcg@10_hymirec"], fitted.figures["ndcg@10_gemirec"])


@given(st.floats(0.1, 10.0), st.floats(0.0, 2.0))
def test_the_scale_is_the_likeliest_and_moves_no_item(factor: float, other: float) -> None:
    cases = merging._cases({"right": right(2.0), "noise": noise(4)}, WALKS.data(), WALKS.data().events)
    weights = torch.tensor([1.0, other], dtype=torch.float64)
    found = merging._calibrated(factor * weights, cases)
    torch.testing.assert_close(found / found[0], weights)
    torch.testing.assert_close(found, merging._calibrated(weights, cases), rtol=3e-2, atol=1e-3)
    best = merging._likelihood(found, cases).value
    for near in (0.9, 1.1):
        assert merging._likelihood(near * found, cases).value < best + 1e-6
    assert merging._ndcg(found, cases) == merging._ndcg(factor * weights, cases)
