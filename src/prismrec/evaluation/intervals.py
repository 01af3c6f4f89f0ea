"""Bootstrap intervals over users (Efron and Tibshirani, 1993: percentile intervals, resampled users).

A draw takes as many users as there are, with replacement, and all metrics of a call see the same draws. A user whose
value is NaN is not counted for that metric: a draw's mean is the sum over the counted users it took, divided by how
many these were.

Notable: a draw is a row of counts, and one matrix product gives its means for all metrics; draws go in blocks, so
working memory stays at CELLS counts whatever users x draws.
"""

from __future__ import annotations

import numpy as np

DRAWS = 2000
LEVEL = 0.95
CELLS = 2**22  # counts held at once: 32 MiB


def bootstrap_means(values_CM: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals of the means of M metrics over C users.

    Args:
        values_CM: a user's value of each metric; NaN is not counted.
        draws: resamples.
        seed: draws the users.

    Returns:
        Lower and upper ends: [M] float64 each; NaN where no user is counted.
    """
    counted_CM = ~np.isnan(values_CM)
    stacked = np.concatenate([np.where(counted_CM, values_CM, 0.0), counted_CM], axis=1)  # [C, 2M]
    sums, counted = np.split(_resampled_sums(stacked, draws, seed), 2, axis=1)
    means = np.divide(sums, counted, out=np.full_like(sums, np.nan), where=counted > 0)
    low_M, high_M = np.full(means.shape[1], np.nan), np.full(means.shape[1], np.nan)
    some_M = counted_CM.any(0)  # a draw that took no counted user has no mean and is left out
    if some_M.any():
        tail = (1 - LEVEL) / 2
        low_M[some_M], high_M[some_M] = np.nanquantile(means[:, some_M], [tail, 1 - tail], axis=0)
    return low_M, high_M


def paired_bootstrap(a_C: np.ndarray, b_C: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference a - b over the same users, and the 95 % interval of it.

    A user without a value in either is not counted.
    """
    assert a_C.shape == b_C.shape, "paired values are of the same users"
    difference_C = a_C - b_C
    assert not np.isnan(difference_C).all(), "no user has a value in both"
    low_M, high_M = bootstrap_means(difference_C[:, None], draws, seed)
    return float(np.nanmean(difference_C)), float(low_M[0]), float(high_M[0])


def paired_intervals(values_CM: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of the differences of M models' means over the same users, the same draws for all pairs.

    Args:
        values_CM: every user's value of one metric, by model; no NaN.

    Returns:
        Lower and upper ends: [M, M] float64 each; at [a, b] those of b minus a.
    """
    assert not np.isnan(values_CM).any(), "every user has a value of every model"
    means_dM = _resampled_sums(values_CM, draws, seed) / len(values_CM)
    tail = (1 - LEVEL) / 2
    ends = [np.quantile(means_dM - means_dM[:, a, None], [tail, 1 - tail], axis=0) for a in range(means_dM.shape[1])]
    low_MM, high_MM = np.stack(ends, axis=1)
    return low_MM, high_MM


def _resampled_sums(values_CM: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums over the users of every draw: [draws, M]."""
    users = len(values_CM)
    assert users, "no user to draw from"
    rng = np.random.default_rng(seed)
    rows = max(CELLS // users, 1)
    blocks = []
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        taken = rng.integers(users, size=(size, users))
        taken += np.arange(size)[:, None] * users
        counts_dC = np.bincount(taken.ravel(), minlength=size * users).reshape(size, users)
        blocks.append(counts_dC.astype(np.float64) @ values_CM)
    return np.concatenate(blocks)
