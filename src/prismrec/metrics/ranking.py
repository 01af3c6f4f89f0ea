"""Ranking metrics of one target a user, exact under ties.

A target tied with t - 1 other items holds each of t places with equal chance; hits and gains are the expectation
over these. A scorer that gives every item the same score thus gets chance level. Textbook definitions: with one
target the ideal DCG is 1, so NDCG@k = 1 / log2(rank + 1) for ranks up to k (ranks from 1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CUTOFFS = (10, 20, 50)


class TargetRank(NamedTuple):
    """Where the target stands: items scored strictly higher, and items of equal score, itself included."""

    higher: Tensor  # [...] int64
    tied: Tensor  # [...] int64, at least 1


def rank_targets(scores_BN: Tensor, targets_B: Tensor) -> TargetRank:
    """Places of the targets among all items; items that may not be recommended score -inf."""
    target_B1 = scores_BN.gather(1, targets_B[:, None])
    assert not target_B1.isnan().any(), "a target's score is NaN: the model has diverged"
    higher_B, tied_B = (scores_BN > target_B1).sum(1), (scores_BN == target_B1).sum(1)
    return TargetRank(higher_B.masked_fill(target_B1[:, 0] == -torch.inf, 2**31), tied_B)


def hit_rate(rank: TargetRank, k: int) -> np.ndarray:
    """Chance that the target is among the first k, for every user."""
    higher, tied = rank.higher.numpy().astype(np.float64), rank.tied.numpy()
    hits: np.ndarray = np.clip((k - higher) / tied, 0.0, 1.0)
    return hits


def ndcg(rank: TargetRank, k: int) -> np.ndarray:
    """Expected discounted gain of the target within the first k, for every user."""
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])
    higher, tied = rank.higher.numpy(), rank.tied.numpy()
    gain: np.ndarray = (gains[np.minimum(higher + tied, k)] - gains[np.minimum(higher, k)]) / tied
    return gain


def ranking_metrics(rank: TargetRank, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, float]:
    """Means over users of HR@k and NDCG@k, keyed `hr@10`, `ndcg@10` and so on."""
    metrics: dict[str, float] = {}
    for k in cutoffs:
        metrics[f"hr@{k}"] = float(hit_rate(rank, k).mean())
        metrics[f"ndcg@{k}"] = float(ndcg(rank, k).mean())
    return metrics


def concatenate(ranks: list[TargetRank]) -> TargetRank:
    """The ranks of several chunks of users as one."""
    return TargetRank(torch.cat([r.higher for r in ranks]), torch.cat([r.tied for r in ranks]))


def coverage(recommended_UK: np.ndarray, num_items: int) -> float:
    """Share of the catalogue that stands in at least one user's list."""
    return len(np.unique(recommended_UK)) / num_items
