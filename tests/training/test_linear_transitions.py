"""Linear transitions: the fit is the ridge regression it says it is, and finds planted transitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prismrec.models.events import EventTable
from prismrec.models.linear_transitions import LinearTransitions, age_weights
from prismrec.models.merge import LinearTransitionsRanker
from prismrec.parameters.llm_recommender import TransitionParameters
from prismrec.training.linear_transitions import Positions, fit_linear_transitions
from training.small import NUM_ITEMS, Walks, next_item, random_lengths


def settings(**changes: object) -> TransitionParameters:
    values = {"decays": (0.0, 0.7), "ridge": 2.0, "kept": NUM_ITEMS, "max_items": NUM_ITEMS}
    return TransitionParameters(**{**values, **changes})


def fitted(
    items: np.ndarray, offsets: np.ndarray, ends: np.ndarray, parameters: TransitionParameters
) -> LinearTransitions:
    positions = Positions(items.astype(np.int32), offsets, ends, NUM_ITEMS, parameters.max_items)
    return fit_linear_transitions(positions, parameters)


def dense(items: np.ndarray, offsets: np.ndarray, ends: np.ndarray, parameters: TransitionParameters) -> np.ndarray:
    """The regression weights by the textbook, a position at a time."""
    rows, targets = [], []
    for user, end in enumerate(ends):
        history = items[offsets[user] : offsets[user] + end]
        for place in range(1, end):
            row = np.zeros((len(parameters.decays), NUM_ITEMS))
            for scale, decay in enumerate(parameters.decays):
                for age, weight in enumerate(age_weights(decay).numpy()[:place]):
                    row[scale, history[place - 1 - age]] += weight
            rows.append(row.ravel())
            targets.append(np.eye(NUM_ITEMS)[history[place]])
    x, y = np.array(rows), np.array(targets)
    return np.linalg.solve(x.T @ x + parameters.ridge * np.eye(x.shape[1]), x.T @ y)


@given(st.lists(st.integers(3, 12), min_size=2, max_size=12), st.integers(0, 9))
def test_scores_are_the_ridge_regressions(lengths: list[int], seed: int) -> None:
    rng, offsets = np.random.default_rng(seed), np.concatenate([[0], np.cumsum(lengths)])
    items, ends = rng.integers(0, NUM_ITEMS, offsets[-1]), np.array(lengths) - 2
    model = fitted(items, offsets, ends, settings())
    weights_RN = dense(items, offsets, ends, settings()) if (ends > 1).any() else np.zeros((2 * NUM_ITEMS, NUM_ITEMS))
    scores_BN = LinearTransitionsRanker(model).scores(
        EventTable(offsets, items, None), torch.arange(len(lengths)), torch.from_numpy(ends)
    )
    for user, end in enumerate(ends):
        history = items[offsets[user] : offsets[user] + end][::-1]
        expected = np.zeros(NUM_ITEMS)
        for scale, decay in enumerate((0.0, 0.7)):
            for weight, item in zip(age_weights(decay).numpy(), history, strict=False):
                expected += weight * weights_RN[scale * NUM_ITEMS + item]
        np.testing.assert_allclose(scores_BN[user], expected, atol=2e-3)


def test_planted_transitions_are_found() -> None:
    walks = Walks(random_lengths(users=200))
    model = fitted(walks.items, walks.offsets, walks.train_ends, settings())
    starts = torch.from_numpy(walks.validation_starts)
    scores = LinearTransitionsRanker(model).scores(walks.data().events, torch.arange(len(starts)), starts)
    last = np.array([walks.of(user)[start - 1] for user, start in enumerate(walks.validation_starts)])
    assert (scores.argmax(1).numpy() == next_item(last)).mean() > 0.95


def test_events_after_the_ends_do_not_count() -> None:
    walks = Walks(random_lengths())
    changed = walks.items.copy()
    for user, end in enumerate(walks.train_ends):
        changed[walks.offsets[user] + end : walks.offsets[user + 1]] = 0
    one = fitted(walks.items, walks.offsets, walks.train_ends, settings())
    two = fitted(changed, walks.offsets, walks.train_ends, settings())
    assert torch.equal(one.columns_RM, two.columns_RM)
    assert torch.equal(one.values_RM, two.values_RM)


def test_only_the_largest_weights_are_kept() -> None:
    walks = Walks(random_lengths())
    full, few = (fitted(walks.items, walks.offsets, walks.train_ends, settings(kept=kept)) for kept in (NUM_ITEMS, 4))
    assert few.values_RM.shape == (2 * (NUM_ITEMS + 1), 4)
    smallest_kept = few.values_RM.abs().min(1).values
    torch.testing.assert_close(smallest_kept, full.values_RM.abs().sort(1, descending=True).values[:, 3])


def test_the_rarest_items_take_no_part() -> None:
    walks = Walks(random_lengths())
    positions = Positions(walks.items.astype(np.int32), walks.offsets, walks.train_ends, NUM_ITEMS, 10)
    counted = np.concatenate([walks.of(user)[:end] for user, end in enumerate(walks.train_ends)])
    counts = np.bincount(counted, minlength=NUM_ITEMS)
    assert counts[positions.known_M].min() >= np.delete(counts, positions.known_M).max()
    model = fit_linear_transitions(positions, settings(max_items=10))
    absent = np.setdiff1d(np.arange(NUM_ITEMS), positions.known_M)
    assert model.values_RM.shape[0] == 2 * (10 + 1), "rows of those that take part, and one of zeros a scale"
    everybody = torch.arange(NUM_ITEMS)[:, None]
    scores = model(everybody, torch.ones_like(everybody, dtype=torch.bool))
    assert not scores[absent].any()
    assert scores[torch.from_numpy(positions.known_M)].any(1).all()
    assert not scores[:, absent].any()


def test_more_items_change_nothing_of_those_before() -> None:
    """Whether items have rows by place, or one each, as an earlier release wrote them."""
    walks = Walks(random_lengths())
    placed = fitted(walks.items, walks.offsets, walks.train_ends, settings(max_items=10))
    plain = LinearTransitions(replace(placed.config, num_known=None))
    known = placed.place_N.long()
    for name in ("columns_RM", "values_RM"):
        tables = getattr(placed, name).view(2, 11, -1)[:, known]
        setattr(plain, name, tables.reshape(2 * NUM_ITEMS, -1))
    items, mask = torch.randint(NUM_ITEMS, (7, 9), generator=torch.Generator().manual_seed(0)), torch.ones(7, 9).bool()
    expected = placed(items, mask)
    assert torch.equal(plain(items, mask), expected)
    newer = torch.cat([items, torch.full((7, 1), NUM_ITEMS + 2)], dim=1)
    for model in (placed, plain):
        wide = model.widened(NUM_ITEMS + 3)
        assert torch.equal(wide(items, mask)[:, :NUM_ITEMS], expected)
        assert not wide(items, mask)[:, NUM_ITEMS:].any()
        assert not wide(newer[:, -1:], mask[:, :1]).any(), "what was added leads nowhere"


def test_without_scales_every_item_scores_the_same() -> None:
    walks = Walks([5, 6])
    model = fitted(walks.items, walks.offsets, walks.train_ends, settings(decays=()))
    scores = LinearTransitionsRanker(model).scores(walks.data().events, torch.arange(2), torch.tensor([3, 4]))
    assert not scores.any()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_ages_end_where_their_weight_is_small(decay: float) -> None:
    weights = age_weights(decay)
    assert weights[0] == 1
    assert (weights >= 0.01).all()
    assert len(weights) == 128 or decay ** len(weights) < 0.01
