"""Exposure: golden values, and naive sums."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.metrics import exposure
from prismrec.metrics.exposure import exposure_metrics, gini, history_popularity, novelty, popularity_lift

ALL = np.ones(12, dtype=bool)


def test_coverage_counts_distinct_recommendable_items() -> None:
    lists = np.array([[0, 1], [1, 2], [0, -1]], dtype=np.int32)
    metrics = exposure_metrics(lists, ALL, (1, 2))
    assert metrics["coverage@1"] == pytest.approx(2 / 12)
    assert metrics["coverage@2"] == pytest.approx(3 / 12)
    assert exposure_metrics(lists, np.arange(12) < 3, (2,))["coverage@2"] == 1
    with pytest.raises(AssertionError):
        exposure_metrics(lists, np.arange(12) < 2, (2,))


def test_gini_of_known_cases() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
    one_item = exposure_metrics(np.zeros((5, 1), dtype=np.int32), ALL, (1,))
    assert one_item["gini@1"] == pytest.approx(11 / 12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=20).filter(any))
def test_gini_is_half_the_relative_mean_difference(values: list[int]) -> None:
    naive = sum(abs(a - b) for a in values for b in values) / (2 * len(values) * sum(values))
    assert gini(np.array(values)) == pytest.approx(naive, abs=1e-12)
    assert -1e-12 <= gini(np.array(values)) < 1


def test_novelty_is_information_in_bits() -> None:
    """One event is added to each of four items: shares 4/8, 2/8, 1/8, 1/8; an item never seen is finite."""
    counts, four = np.array([3, 1, 0, 0]), np.ones(4, dtype=bool)
    lists = np.array([[0, 1, 2], [3, -1, -1], [-1, -1, -1]], dtype=np.int32)
    values = novelty(lists, counts, four, (1, 3))
    np.testing.assert_allclose(values["novelty@1"], [1, 3, math.nan])
    np.testing.assert_allclose(values["novelty@3"], [2, 3, math.nan])


def test_uniform_popularity_gives_the_catalogue_s_entropy_and_no_lift() -> None:
    counts = np.full(16, 5)
    lists = np.random.default_rng(0).permuted(np.tile(np.arange(16), (9, 1)), axis=1)[:, :6]
    np.testing.assert_allclose(novelty(lists, counts, np.ones(16, dtype=bool), (5,))["novelty@5"], 4)
    assert popularity_lift(lists, counts, np.full(9, 5.0), (5,))["popularity_lift@5"] == pytest.approx(1)


def test_popularity_lift_is_a_ratio_of_means() -> None:
    """A user whose history has no training event does not blow it up; one without a history or a list is left out."""
    counts = np.array([10, 4, 2, 0])
    lists = np.array([[0, 1], [0, 0], [1, 2], [-1, -1]], dtype=np.int32)
    lift = popularity_lift(lists, counts, np.array([4.0, 0.0, math.nan, 7.0]), (1, 2))
    assert lift["popularity_lift@1"] == pytest.approx((10 + 10) / 4)
    assert lift["popularity_lift@2"] == pytest.approx((7 + 10) / 4)
    assert math.isnan(popularity_lift(lists, counts, np.zeros(4), (1,))["popularity_lift@1"])


def test_history_popularity() -> None:
    items, counts = np.array([0, 1, 1, 3, 2]), np.array([10, 4, 2, 0])
    means = history_popularity(items, np.array([0, 1, 3, 5]), np.array([3, 4, 3, 5]), counts)
    np.testing.assert_allclose(means, [6, 8 / 3, math.nan, math.nan])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    lists, counts = rng.integers(-1, 12, (11, 8)), rng.integers(0, 9, 12)
    whole = novelty(lists, counts, ALL, (3, 8))
    monkeypatch.setattr(exposure, "CHUNK", 4)
    for name, values in novelty(lists, counts, ALL, (3, 8)).items():
        np.testing.assert_array_equal(values, whole[name])
