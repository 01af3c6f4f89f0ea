"""Fit of the merge's weights on validation events (our choice): a handful of numbers, no gradient steps.

The likelihood of the targets under the pool, Σ log softmax(Σ_m w_m s_m), is concave in the weights: Newton's method
finds its one maximum. Likelihood counts the whole catalogue, NDCG only the top, so the weights are then moved one at a
time as long as validation NDCG@10 rises. A weight never falls below zero: a member that does not help is left out.
Last, all weights are multiplied by the one factor under which the targets are likeliest: no item changes its place, and
the weights that interests are shown with are those that validation saw.

Notable: the members have not learned from validation events, or the fit would trust what merely remembers them.

Shapes: M members, C cases, N items, T targets a case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prismrec.metrics.ranking import rank_targets, ranking_metrics
from prismrec.models.events import EventTable
from prismrec.models.merge import Merge, MergeConfig
from prismrec.models.rankers import Ranker
from prismrec.retrieval.chunks import chunk_size
from prismrec.retrieval.topk import exclude
from prismrec.training.sequences import TrainingData

HELD_SCORES = 2**28  # of all members and cases together, in fp32: 1 GiB
CHUNK = 128  # cases whose scores are looked at together
MOST_STEPS = 50
STEPS = (0.0, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0)  # factors that a weight is tried with; 0 leaves a member out
ROUNDS = 3
FACTORS = (1 / 32, 32.0)  # between which the common factor lies
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
SEARCH_STEPS = 16  # to a relative precision of 3e-3


class Cases(NamedTuple):
    """What the fit looks at."""

    scores_MCN: Tensor  # 0 where excluded
    excluded_CN: Tensor
    targets_CT: Tensor
    mask_CT: Tensor


class Fitted(NamedTuple):
    """The weights, and the figures that chose them."""

    merge: Merge
    figures: dict[str, float]


def fit_merge(members: Mapping[str, Ranker], data: TrainingData, rivals: Mapping[str, Merge] | None = None) -> Fitted:
    """Weights of the members that rank the validation events best, with their times and without.

    Args:
        rivals: other weights of these members, by name; they stay where they rank better than what the fit finds.
    """
    rivals = rivals or {}
    merge = Merge(MergeConfig(tuple(members)))
    figures: dict[str, float] = {}
    timeless = data.events.without_times(np.ones(len(data.events), dtype=bool))
    for buffer, events, suffix in (("timed_M", data.events, ""), ("timeless_M", timeless, "_time_free")):
        cases = _cases(members, data, events)
        likely_M = _most_likely(cases)
        tried = {"climbed": _climb(likely_M, cases), **{name: getattr(rival, buffer) for name, rival in rivals.items()}}
        ranked = {name: _ndcg(weights_M, cases) for name, weights_M in tried.items()}
        weights_M = _calibrated(tried[max(ranked, key=lambda name: ranked[name])], cases)  # of equals the climbed
        getattr(merge, buffer).copy_(weights_M)
        found = _figures(members, weights_M, likely_M, cases) | {f"ndcg@10_{name}": ranked[name] for name in rivals}
        figures |= {f"{name}{suffix}": value for name, value in found.items()}
    return Fitted(merge.eval(), figures | {f"weight_{name}": weight for name, weight in merge.weights().items()})


def _figures(members: Mapping[str, Ranker], weights_M: Tensor, likely_M: Tensor, cases: Cases) -> dict[str, float]:
    """What the weights bring, each member alone, and what is lost without it."""
    alone = torch.eye(len(members), dtype=torch.float64)
    return {
        "users": float(len(cases.targets_CT)),
        "ndcg@10": _ndcg(weights_M, cases),
        "ndcg@10_most_likely": _ndcg(likely_M, cases),
        "ndcg@10_equal_weights": _ndcg(torch.ones(len(members), dtype=torch.float64), cases),
        **{f"ndcg@10_{name}": _ndcg(alone[m], cases) for m, name in enumerate(members)},
        **{f"ndcg@10_without_{name}": _ndcg(weights_M * (1 - alone[m]), cases) for m, name in enumerate(members)},
    }


@torch.inference_mode()
def _cases(members: Mapping[str, Ranker], data: TrainingData, events: EventTable) -> Cases:
    """Members' scores of the validation cases, of an even sample of them where all would not fit."""
    known, num_items = data.validation, len(data.recommendable_N)
    most = max(1, HELD_SCORES // (len(members) * num_items))
    step = -(-len(known.users_C) // most)
    users_C, starts_C = known.users_C[::step], known.starts_C[::step]
    scores_MCN = torch.empty(len(members), len(users_C), num_items)
    excluded_CN = torch.empty(len(users_C), num_items, dtype=torch.bool)
    size = chunk_size(num_items, max(ranker.held for ranker in members.values()))
    for first in range(0, len(users_C), size):
        chunk = slice(first, first + size)
        users_B, ends_B = users_C[chunk], starts_C[chunk]
        seen = data.events.cut(users_B, torch.zeros_like(ends_B), ends_B)
        allowed = torch.zeros(len(users_B), num_items)
        excluded_CN[chunk] = exclude(allowed, seen, data.recommendable_N).isinf()
        for m, ranker in enumerate(members.values()):
            scores_MCN[m, chunk] = ranker.scores(events, users_B, ends_B)
    scores_MCN.masked_fill_(excluded_CN, 0.0)
    return Cases(scores_MCN, excluded_CN, known.targets_CT[::step], known.mask_CT[::step])


def _pooled(weights_M: Tensor, cases: Cases, chunk: slice) -> Tensor:
    """[B, N] the pool's scores of some of the cases."""
    pooled_BN = torch.einsum("m,mcn->cn", weights_M.float(), cases.scores_MCN[:, chunk])
    return pooled_BN.masked_fill_(cases.excluded_CN[chunk], -torch.inf)


def _ndcg(weights_M: Tensor, cases: Cases) -> float:
    ranks = rank_targets(_pooled(weights_M, cases, slice(None)), cases.targets_CT, cases.mask_CT)
    return float(ranking_metrics(ranks, cutoffs=(10,))["ndcg@10"])


class _Likelihood(NamedTuple):
    """Mean log-likelihood of a target, its gradient and (negative) Hessian in the weights."""

    value: float
    gradient_M: Tensor
    curvature_MM: Tensor


def _likelihood(weights_M: Tensor, cases: Cases) -> _Likelihood:
    members, targets = len(weights_M), int(cases.mask_CT.sum())
    value, gradient_M = 0.0, torch.zeros(members, dtype=torch.float64)
    curvature_MM = torch.zeros(members, members, dtype=torch.float64)
    for first in range(0, len(cases.targets_CT), CHUNK):
        chunk = slice(first, first + CHUNK)
        scores_MBN, mask_BT = cases.scores_MCN[:, chunk], cases.mask_CT[chunk]
        log_BN = _pooled(weights_M, cases, chunk).log_softmax(1)
        wanted_BT = cases.targets_CT[chunk]
        value += float(log_BN.gather(1, wanted_BT)[mask_BT].double().sum())
        share_BN, times_B = log_BN.exp(), mask_BT.sum(1).double()
        mean_MB = torch.einsum("bn,mbn->mb", share_BN, scores_MBN).double()
        at_target_MBT = scores_MBN.gather(2, wanted_BT.expand(members, -1, -1)).double() * mask_BT
        gradient_M += (at_target_MBT.sum(2) - times_B * mean_MB).sum(1)
        square_MMB = torch.einsum("bn,mbn,kbn->mkb", share_BN, scores_MBN, scores_MBN).double()
        curvature_MM += ((square_MMB - mean_MB[:, None] * mean_MB) * times_B).sum(2)
    return _Likelihood(value / targets, gradient_M / targets, curvature_MM / targets)


def _most_likely(cases: Cases) -> Tensor:
    """Newton's method from equal weights, halving a step that overshoots; a negative weight ends at zero.

    Equal weights stay where none is positive.
    """
    members = cases.scores_MCN.shape[0]
    weights_M = torch.full((members,), 1.0 / members, dtype=torch.float64)
    now = _likelihood(weights_M, cases)
    damping = 1e-9 * torch.eye(members, dtype=torch.float64)
    for _ in range(MOST_STEPS):
        step_M = torch.linalg.solve(now.curvature_MM + damping, now.gradient_M)
        for _halving in range(MOST_STEPS):
            then = _likelihood(weights_M + step_M, cases)
            if then.value >= now.value:
                break
            step_M = step_M / 2
        else:
            break
        weights_M, gain, now = weights_M + step_M, then.value - now.value, then
        if gain < 1e-7:
            break
    kept_M = weights_M.clamp_min(0.0)
    kept_M[now.curvature_MM.diagonal() == 0] = 0.0  # it says the same of all items, as recency does without times
    return kept_M if kept_M.any() else torch.full_like(kept_M, 1.0 / members)


def _climb(weights_M: Tensor, cases: Cases) -> Tensor:
    """One weight at a time, by the factor that brings the highest NDCG@10, until none does."""
    best = _ndcg(weights_M, cases)
    for _ in range(ROUNDS):
        before = best
        for member in range(len(weights_M)):
            for candidate_M in [_scaled(weights_M, member, factor) for factor in STEPS]:
                found = _ndcg(candidate_M, cases)
                if found > best:
                    best, weights_M = found, candidate_M
        if best == before:
            break
    return weights_M


def _calibrated(weights_M: Tensor, cases: Cases) -> Tensor:
    """The weights times the factor under which the targets are likeliest; one maximum, found by golden section."""
    low, high = (math.log(end) for end in FACTORS)
    for _ in range(SEARCH_STEPS):
        inner = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        values = [_log_likelihood(math.exp(log_factor) * weights_M, cases) for log_factor in inner]
        low, high = (low, inner[1]) if values[0] >= values[1] else (inner[0], high)
    return math.exp((low + high) / 2) * weights_M


def _log_likelihood(weights_M: Tensor, cases: Cases) -> float:
    """Mean log-likelihood of a target."""
    total = 0.0
    for first in range(0, len(cases.targets_CT), CHUNK):
        chunk = slice(first, first + CHUNK)
        log_BN = _pooled(weights_M, cases, chunk).log_softmax(1)
        total += float(log_BN.gather(1, cases.targets_CT[chunk])[cases.mask_CT[chunk]].double().sum())
    return total / int(cases.mask_CT.sum())


def _scaled(weights_M: Tensor, member: int, factor: float) -> Tensor:
    scaled_M = weights_M.clone()
    scaled_M[member] *= factor
    return scaled_M
