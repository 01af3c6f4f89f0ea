"""Ranking metrics of one or several targets a user, exact under ties.

Items of equal score stand in every order with equal chance, and a metric is the expectation over these orders, so a
scorer that gives every item the same score gets chance level. Recall and DCG add up over targets, so each target's own
place is enough. The hit rate and the reciprocal rank ask for the first target: it always stands in the best tie group
that holds a target, at a place that follows the negative hypergeometric law.

Textbook definitions (Järvelin and Kekäläinen, 2002, for NDCG with binary gains):
    HR@k: is any target among the first k; Recall@k: share of the targets among the first k;
    NDCG@k: sum of 1 / log2(place + 1) over targets up to k, divided by the same sum for the best order;
    MRR@k: 1 / place of the first target, 0 when it stands below k. Places count from 1.
With one target the ideal DCG is 1, and Recall equals HR.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CUTOFFS = (10, 20, 50, 100)
METRICS = ("hr", "recall", "ndcg", "mrr")
NEVER = 2**31  # items before a target that may not be recommended
CHUNK = 8192  # users whose law of the first place is held at once: CHUNK x cutoff x 8 bytes


class TargetRanks(NamedTuple):
    """Where the targets of C users stand, on the CPU; T is the largest number of targets."""

    higher_CT: Tensor  # int64: items scored strictly higher; NEVER for a target whose score is -inf
    tied_CT: Tensor  # int64: items of equal score, itself included, at least 1
    mask_CT: Tensor  # bool: False is padding

    def put(self, chunk: slice, ranks: TargetRanks) -> None:
        """Write the ranks of some of the users."""
        self.higher_CT[chunk], self.tied_CT[chunk] = ranks.higher_CT, ranks.tied_CT


def nowhere(mask_CT: Tensor) -> TargetRanks:
    """Ranks for so many targets, none of them found yet, to be filled chunk by chunk.

    Laid out before the first chunk: small results kept between large scores that are freed leave holes in the heap,
    which once cost 10 GB on 22,000 users and 12,000 items.
    """
    return TargetRanks(torch.full(mask_CT.shape, NEVER), torch.ones(mask_CT.shape, dtype=torch.int64), mask_CT)


def rank_targets(scores_BN: Tensor, targets_BT: Tensor, mask_BT: Tensor) -> TargetRanks:
    """Places of the targets among all items.

    Args:
        scores_BN: scores; items that may not be recommended score -inf.
        targets_BT: item numbers, distinct within a user; anything where padded.
        mask_BT: which entries are targets.

    Counting goes row by row in numpy, on the CPU: working memory is one row of N flags whatever B and T, work grows
    with the number of true targets, and a pass takes a twentieth of the time of torch's sum of a [B, N] comparison.
    """
    assert not scores_BN.amax(1).isnan().any(), "a score is NaN: the model has diverged"  # the maximum passes NaN on
    rows_BN, items_BT, mask = scores_BN.cpu().numpy(), targets_BT.cpu().numpy(), mask_BT.cpu().numpy()
    higher_BT = np.full(mask.shape, NEVER, dtype=np.int64)
    tied_BT = np.ones(mask.shape, dtype=np.int64)
    for user, column in zip(*mask.nonzero(), strict=True):
        row_N, score = rows_BN[user], rows_BN[user, items_BT[user, column]]
        tied_BT[user, column] = np.count_nonzero(row_N == score)
        if score > -np.inf:
            higher_BT[user, column] = np.count_nonzero(row_N > score)
    return TargetRanks(torch.from_numpy(higher_BT), torch.from_numpy(tied_BT), mask_BT.cpu())


def per_user_metrics(ranks: TargetRanks, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, np.ndarray]:
    """Expected HR, Recall, NDCG and MRR of every user, keyed `hr@10` and so on: [C] float64 each.

    A user without a target is NaN (a slice may leave none), which `evaluation.intervals` does not count.
    """
    higher_CT, tied_CT, mask_CT = (part.numpy() for part in ranks)
    chunks = [
        _chunk_metrics(higher_CT[i : i + CHUNK], tied_CT[i : i + CHUNK], mask_CT[i : i + CHUNK], cutoffs)
        for i in range(0, max(len(mask_CT), 1), CHUNK)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def ranking_metrics(ranks: TargetRanks, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, float]:
    """Means over users of `per_user_metrics`; every user must have a target."""
    assert len(ranks.mask_CT), "no user to average over"
    assert ranks.mask_CT.any(1).all(), "a user without a target is no case"
    return {name: float(values_C.mean()) for name, values_C in per_user_metrics(ranks, cutoffs).items()}


def _chunk_metrics(
    higher_CT: np.ndarray, tied_CT: np.ndarray, mask_CT: np.ndarray, cutoffs: tuple[int, ...]
) -> dict[str, np.ndarray]:
    discounts_K = 1.0 / np.log2(np.arange(max(cutoffs)) + 2.0)
    gains = np.concatenate([[0.0], np.cumsum(discounts_K)])  # gains[n]: DCG of n hits at the first n places
    first_CK = first_place(*_best_group(higher_CT, tied_CT, mask_CT), max(cutoffs))
    reciprocal_CK = first_CK / np.arange(1, max(cutoffs) + 1)
    targets_C = mask_CT.sum(1)
    counted_C = np.where(targets_C > 0, 1.0, np.nan)
    targets_C = np.maximum(targets_C, 1)
    metrics: dict[str, np.ndarray] = {}
    for k in cutoffs:
        within_CT = np.where(mask_CT, np.clip((k - higher_CT) / tied_CT, 0.0, 1.0), 0.0)
        gain_CT = (gains[np.minimum(higher_CT + tied_CT, k)] - gains[np.minimum(higher_CT, k)]) / tied_CT
        metrics[f"hr@{k}"] = np.minimum(first_CK[:, :k].sum(1), 1.0)  # the sum may exceed 1 by a rounding
        metrics[f"recall@{k}"] = within_CT.sum(1) / targets_C
        metrics[f"ndcg@{k}"] = np.where(mask_CT, gain_CT, 0.0).sum(1) / gains[np.minimum(targets_C, k)]
        metrics[f"mrr@{k}"] = reciprocal_CK[:, :k].sum(1)
    return {name: values_C * counted_C for name, values_C in metrics.items()}


def _best_group(
    higher_CT: np.ndarray, tied_CT: np.ndarray, mask_CT: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items above the best tie group that holds a target, items in it, targets in it: [C] each."""
    higher_C1 = np.where(mask_CT, higher_CT, NEVER).min(1, keepdims=True)
    group_CT = mask_CT & (higher_CT == higher_C1)
    return higher_C1[:, 0], np.where(group_CT, tied_CT, 0).max(1), group_CT.sum(1)


def first_place(higher_G: np.ndarray, items_G: np.ndarray, targets_G: np.ndarray, depth: int) -> np.ndarray:
    """Chance that the first target stands at place 1 .. depth: [G, depth] float64.

    Let the best tie group hold t items, m of them targets. With no target among its first x - 1 items, the x-th is
    one with chance m / (t - x + 1).

    Args:
        higher_G: items above the best tie group that holds a target.
        items_G: t, items in that group.
        targets_G: m, targets in it.
        depth: last place asked for.
    """
    assert (targets_G <= items_G).all(), "more targets than items in a tie group: a target is listed twice"
    x_1K = np.arange(1, depth + 1)[None]
    left_GK = np.maximum(items_G[:, None] - x_1K + 1, 1)
    hit_GK = np.minimum(targets_G[:, None] / left_GK, 1.0)  # 1 where only targets are left: later places get chance 0
    none_before_GK = np.cumprod(np.concatenate([np.ones((len(hit_GK), 1)), 1.0 - hit_GK[:, :-1]], axis=1), axis=1)
    law_GK = none_before_GK * hit_GK  # of the place within the group
    shift_GK = x_1K - 1 - higher_G[:, None]
    return np.where(shift_GK >= 0, np.take_along_axis(law_GK, np.maximum(shift_GK, 0), axis=1), 0.0)
