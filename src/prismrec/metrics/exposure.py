"""What the lists show: how much of the catalogue, how evenly, how popular, against what users already had.

Lists are item numbers, best first, with -1 where a list is shorter. Popularity is the number of training events.
"""

from __future__ import annotations

import numpy as np

CHUNK = 8192  # users whose list popularities are held at once


def exposure_metrics(lists_CK: np.ndarray, recommendable_N: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """`coverage@k` and `gini@k` of how often each recommendable item stands in the first k.

    Coverage is the share of recommendable items in at least one list. Gini is 0 when all items are shown alike and
    (N - 1) / N when only one is; items never shown count as 0. Every list must have an item.
    """
    metrics: dict[str, float] = {}
    for k in cutoffs:
        head_Ck = lists_CK[:, :k]
        shown_N = np.bincount(head_Ck[head_Ck >= 0], minlength=len(recommendable_N))
        assert not shown_N[~recommendable_N].any(), "an item that may not be recommended stands in a list"
        shown_n = shown_N[recommendable_N]
        metrics[f"coverage@{k}"] = float((shown_n > 0).mean())
        metrics[f"gini@{k}"] = gini(shown_n)
    return metrics


def gini(values_n: np.ndarray) -> float:
    """Gini index of values of 0 or more, at least one of them above 0."""
    n = len(values_n)
    weights_n = 2.0 * np.arange(1, n + 1) - n - 1
    return float((weights_n * np.sort(values_n)).sum() / (n * values_n.sum()))


def novelty(
    lists_CK: np.ndarray, counts_N: np.ndarray, recommendable_N: np.ndarray, cutoffs: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """`novelty@k`: mean self-information of the items of each user's list, in bits: [C] float64 each.

    An item's information is -log2 of its share of the training events (Zhou et al., 2010), one event added to every
    recommendable item (our choice), so that an item nobody has seen is the most novel one, and not infinitely so.
    A user with an empty list is NaN.
    """
    smooth_N = counts_N + 1.0
    bits_N = -np.log2(smooth_N / smooth_N[recommendable_N].sum())
    return {f"novelty@{k}": values_C for k, values_C in _list_means(lists_CK, bits_N, cutoffs).items()}


def popularity_lift(
    lists_CK: np.ndarray, counts_N: np.ndarray, history_popularity_C: np.ndarray, cutoffs: tuple[int, ...]
) -> dict[str, float]:
    """`popularity_lift@k`: how many times as popular lists are as histories; 1 is as popular.

    A user's popularity is the mean over the items of the list, or of the history; the lift is the ratio of the two
    means over users (group average popularity; Abdollahpouri et al., 2020, subtract 1). A mean of each user's own
    ratio would be ruled by the few whose histories are of rare items, and undefined where these have no training
    event. Users without a list or a history are left out of both means.

    Args:
        history_popularity_C: `history_popularity`.
    """
    lift: dict[str, float] = {}
    for k, popularity_C in _list_means(lists_CK, counts_N.astype(np.float64), cutoffs).items():
        both_C = ~np.isnan(popularity_C) & ~np.isnan(history_popularity_C)
        before = history_popularity_C[both_C].sum()
        lift[f"popularity_lift@{k}"] = float(popularity_C[both_C].sum() / before) if before > 0 else float("nan")
    return lift


def history_popularity(
    items_E: np.ndarray, starts_C: np.ndarray, ends_C: np.ndarray, counts_N: np.ndarray
) -> np.ndarray:
    """Mean popularity of each case's history, repeats counted: [C] float64, NaN for an empty history.

    Args:
        items_E: items of all users' events, flat.
        starts_C: where the case's history starts in `items_E`.
        ends_C: where it ends, itself excluded.
        counts_N: training events of each item.
    """
    running = np.concatenate([[0], np.cumsum(counts_N[items_E])])
    length_C = ends_C - starts_C
    total_C = (running[ends_C] - running[starts_C]).astype(np.float64)
    mean_C = np.full(len(total_C), np.nan)
    np.divide(total_C, length_C, out=mean_C, where=length_C > 0)
    return mean_C


def _list_means(lists_CK: np.ndarray, values_N: np.ndarray, cutoffs: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Mean value of the first k items of every list: [C] float64 for each k, NaN for an empty list."""
    means = {k: np.full(len(lists_CK), np.nan) for k in cutoffs}
    for start in range(0, len(lists_CK), CHUNK):
        lists_cK = lists_CK[start : start + CHUNK]
        value_cK = np.where(lists_cK >= 0, values_N[lists_cK], 0.0)
        for k in cutoffs:
            items_c = (lists_cK[:, :k] >= 0).sum(1)
            total_c = value_cK[:, :k].sum(1)
            np.divide(total_c, items_c, out=means[k][start : start + CHUNK], where=items_c > 0)
    return means
