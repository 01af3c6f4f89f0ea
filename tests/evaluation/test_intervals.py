"""Bootstrap intervals: they hold the truth as often as they say, and tell better from equal."""

import numpy as np
import pytest

from prismrec.evaluation import intervals
from prismrec.evaluation.intervals import bootstrap_means, paired_bootstrap, paired_intervals


def test_the_interval_holds_the_truth_about_19_times_in_20() -> None:
    """400 worlds of 200 users, hits with chance 0.3: one metric a world, so one call does all of them."""
    worlds = np.random.default_rng(0).random((200, 400)) < 0.3
    low, high = bootstrap_means(worlds.astype(float), draws=500, seed=1)
    assert 0.92 <= ((low <= 0.3) & (high >= 0.3)).mean() <= 0.98


def test_the_interval_has_the_width_of_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, (2000, 1))
    low, high = bootstrap_means(values, seed=0)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low[0] == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.08 * half)


def test_a_user_without_a_value_is_not_counted() -> None:
    """Padding a metric with users of NaN leaves the mean of the others, never draws it towards 0."""
    values = np.full((400, 3), np.nan)
    values[:100, 0] = np.random.default_rng(0).normal(5, 1, 100)
    values[7, 1] = 2.0
    low, high = bootstrap_means(values, draws=500)
    alone_low, alone_high = bootstrap_means(values[:100, :1], draws=500)
    np.testing.assert_allclose([low[0], high[0]], [alone_low[0], alone_high[0]], atol=0.1)
    assert (low[1], high[1]) == (2, 2)
    assert np.isnan([low[2], high[2]]).all()


def test_the_same_seed_gives_the_same_interval_in_any_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 2))
    first, again, other = (bootstrap_means(values, 100, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    monkeypatch.setattr(intervals, "CELLS", 350)
    np.testing.assert_allclose(bootstrap_means(values, 100, 3), first, rtol=1e-12)


def test_equal_models_differ_by_nothing() -> None:
    rng = np.random.default_rng(0)
    model = rng.random(300)
    assert paired_bootstrap(model, model) == (0, 0, 0)
    difference, low, high = paired_bootstrap(model, model + rng.normal(0, 0.2, 300))
    assert low < 0 < high
    assert low < difference < high


def test_a_better_model_is_told_by_pairs_though_single_intervals_overlap() -> None:
    rng = np.random.default_rng(0)
    weak = rng.normal(0.5, 1.0, 400)
    strong = weak + rng.normal(0.05, 0.1, 400)
    low, high = bootstrap_means(np.stack([weak, strong], axis=1))
    assert low[1] < high[0]
    difference, paired_low, paired_high = paired_bootstrap(strong, weak)
    assert 0 < paired_low < difference < paired_high
    reverse = paired_bootstrap(weak, strong)
    np.testing.assert_allclose(reverse, (-difference, -paired_high, -paired_low), rtol=1e-9)


def test_pairs_count_users_with_both_values() -> None:
    strong, weak = np.array([1.0, 1.0, np.nan, 9.0]), np.array([0.5, 0.5, 3.0, np.nan])
    assert paired_bootstrap(strong, weak, draws=100) == (0.5, 0.5, 0.5)
    with pytest.raises(AssertionError):
        paired_bootstrap(strong[2:], weak[2:])
    with pytest.raises(AssertionError):
        bootstrap_means(np.zeros((0, 2)))


def test_paired_intervals_of_all_pairs_are_those_of_each_pair() -> None:
    values_CM = np.random.default_rng(3).random((40, 3))
    low_MM, high_MM = paired_intervals(values_CM, draws=200, seed=5)
    for a in range(3):
        for b in range(3):
            _, low, high = paired_bootstrap(values_CM[:, b], values_CM[:, a], draws=200, seed=5)
            assert (low_MM[a, b], high_MM[a, b]) == pytest.approx((low, high), abs=1e-12)


def test_paired_intervals_need_every_value() -> None:
    with pytest.raises(AssertionError, match="every user has a value"):
        paired_intervals(np.array([[0.5, np.nan]]))
