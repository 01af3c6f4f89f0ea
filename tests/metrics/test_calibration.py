"""Likelihood and calibration of a distribution over cells: by hand, and on worlds whose law is known."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.metrics import calibration
from prismrec.metrics.calibration import (
    calibration_error,
    category_calibration,
    log_likelihood,
    reliability,
    shown_cells,
)

LOG = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
CELLS = torch.tensor([[0, 2], [2, 7]])  # the last one is padding
MASK = torch.tensor([[True, True], [True, False]])


def test_likelihood_by_hand() -> None:
    found = log_likelihood(LOG, CELLS, MASK)
    assert found == pytest.approx([(math.log(0.5) + math.log(0.2)) / 2, math.log(0.8)])
    assert np.isnan(log_likelihood(LOG, CELLS, torch.zeros_like(MASK))).all()
    assert log_likelihood(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[1]]), torch.tensor([[True]])) == -np.inf


def test_what_is_shown_and_what_came_of_it_by_hand() -> None:
    said, came = shown_cells(LOG, CELLS, MASK, 2)
    assert said == pytest.approx(np.array([[0.5, 0.3], [0.8, 0.1]]))
    assert came[0].tolist() == [0.5, 0.0]
    assert came[1, 0] == 1.0


def test_error_by_hand() -> None:
    said, came = np.array([0.05, 0.1, 0.65, 0.75]), np.array([0.0, 1.0, 1.0, 0.0])
    assert reliability(said, came, 10) == [
        pytest.approx((0.075, 0.5, 0.5)), pytest.approx((0.65, 1.0, 0.25)), pytest.approx((0.75, 0.0, 0.25)),
    ]  # fmt: skip
    assert calibration_error(said, came, 10) == pytest.approx(0.5 * 0.425 + 0.25 * 0.35 + 0.25 * 0.75)


def test_the_truth_is_calibrated_and_a_sharpened_one_is_not() -> None:
    rng = np.random.default_rng(0)
    law = torch.from_numpy(rng.dirichlet(np.full(12, 0.3), size=20_000)).log()
    drawn = torch.from_numpy((rng.random((20_000, 1)) < law.exp().cumsum(1).numpy()).argmax(1))[:, None]
    mask = torch.ones_like(drawn, dtype=torch.bool)
    errors = {}
    for power in (1.0, 2.0):
        said, came = shown_cells((power * law).log_softmax(1), drawn, mask, 1)
        errors[power] = calibration_error(said.ravel(), came.ravel())
    assert errors[1.0] < 0.015
    assert errors[2.0] > 0.1
    best = {power: log_likelihood((power * law).log_softmax(1), drawn, mask).mean() for power in (0.5, 1.0, 2.0)}
    assert max(best, key=best.__getitem__) == 1.0, "the truth has the highest likelihood"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_bins_share_out_all_predictions(pairs: list[tuple[float, bool]], bins: int) -> None:
    said, came = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    found = reliability(said, came, bins)
    assert sum(weight for _, _, weight in found) == pytest.approx(1.0)
    assert sum(mean * weight for mean, _, weight in found) == pytest.approx(said.mean())
    assert sum(mean * weight for _, mean, weight in found) == pytest.approx(came.mean())
    assert 0.0 <= calibration_error(said, came, bins) <= 1.0
    assert calibration_error(said, came, bins) >= abs(said.mean() - came.mean()) - 1e-12


def test_categories_of_a_list_by_hand() -> None:
    categories = sp.csr_matrix(np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]))
    histories = np.array([0, 1, 2, 0, 3, 3])  # shares: half and half, of three items; one and a quarter; none
    starts, ends = np.array([0, 2, 3, 4, 3]), np.array([2, 3, 4, 6, 3])
    lists = np.array([[0, 1], [2, 3], [4, -1], [0, 1], [0, 1]])
    found = category_calibration(lists, histories, starts, ends, categories, (1, 2))
    half, rare = 0.99 * 1.0 + 0.005, 0.005  # the first list's only item has one of the two categories
    assert found["category_kl@1"][0] == pytest.approx(0.5 * math.log(0.5 / half) + 0.5 * math.log(0.5 / rare))
    assert found["category_kl@2"][:2] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert found["category_kl@2"][2] == pytest.approx(math.log(100)), "nothing in common: as far as it goes"
    assert np.isnan(found["category_kl@2"][3:]).all(), "a history of items without a category, and an empty one"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_categories_of_lists_against_plain_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    has_NM = rng.random((12, 4)) < 0.4
    lengths = rng.integers(0, 6, 5)
    ends = np.cumsum(lengths)
    items, lists = rng.integers(0, 12, lengths.sum()), np.stack([rng.permutation(12)[:6] for _ in range(5)])
    lists[0, 3:] = -1

    def shares(which: np.ndarray) -> np.ndarray | None:
        each = [has_NM[item] / has_NM[item].sum() for item in which if item >= 0 and has_NM[item].any()]
        return np.mean(each, axis=0) if each else None

    whole = category_calibration(lists, items, ends - lengths, ends, sp.csr_matrix(has_NM), (2, 6))
    for k in (2, 6):
        for case in range(5):
            history, shown = shares(items[ends[case] - lengths[case] : ends[case]]), shares(lists[case, :k])
            value = whole[f"category_kl@{k}"][case]
            if history is None or shown is None:
                assert math.isnan(value)
                continue
            mixed, some = 0.99 * shown + 0.01 * history, history > 0
            assert value == pytest.approx((history[some] * np.log(history[some] / mixed[some])).sum(), abs=1e-9)
            assert -1e-12 <= value <= math.log(100) + 1e-9


def test_categories_are_counted_a_few_users_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    starts = np.arange(20) * 3
    given_ = (rng.integers(0, 12, 60), starts, starts + 3, sp.csr_matrix(rng.random((12, 4)) < 0.5), (3,))
    lists = rng.integers(0, 12, (20, 3))
    whole = category_calibration(lists, *given_)["category_kl@3"]
    monkeypatch.setattr(calibration, "SHARES", 12)
    np.testing.assert_allclose(category_calibration(lists, *given_)["category_kl@3"], whole)
    nothing = category_calibration(lists, *given_[:3], sp.csr_matrix((12, 0)), (3,))["category_kl@3"]
    assert np.isnan(nothing).all(), "a data set without categories has no figure"
