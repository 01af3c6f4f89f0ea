"""Fit of the merge's weights on validation events (our choice): a handful of numbers, no gradient steps.

The likelihood of the targets under the pool, Σ log softmax(Σ_m w_m s_m), is concave in the weights: Newton's method,
with an active set since no weight may fall below zero, finds its one maximum. Likelihood counts the whole catalogue,
NDCG only the top, so the weights are then moved one at a time as long as validation NDCG@10 rises; a member that was
left out is tried again. NDCG has many hills: the climb starts from the likeliest weights and from those that give all
members an equal say, and looks only at cases that weights can decide. Where there are other weights to beat, it starts
from them too, and they stay unless it ends above them by more than a standard error of the difference. Last, all
weights are multiplied by the one factor under which the targets are likeliest: no item changes its place, and the
weights that interests are shown with are those that validation saw.

Notable: the members have not learned from validation events, or the fit would trust what merely remembers them.

Shapes: M members, C cases, N items, T targets a case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from prismrec.metrics.ranking import per_user_metrics, rank_targets, ranking_metrics
from prismrec.models.events import EventTable
from prismrec.models.merge import Merge, MergeConfig
from prismrec.models.rankers import Ranker
from prismrec.retrieval.chunks import chunk_size
from prismrec.retrieval.topk import exclude
from prismrec.training.sequences import TrainingData

HELD_SCORES = 2**29  # of all members and cases together, in fp32: 2 GiB
CHUNK = 128  # cases whose scores are looked at together
MOST_STEPS = 50
NO_GRADIENT = 1e-6  # of the mean log-likelihood in a member's say: its weight times its scores' spread
ROUNDING = 1e-5  # of single precision, relative
STEPS = (0.0, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0)  # factors that a weight is tried with; 0 leaves a member out
SHARES = (0.1, 0.3, 1.0)  # of the other members' mean say, with which one is tried that was left out
ROUNDS = 3
FACTORS = (1 / 32, 32.0)  # between which the common factor lies
PRECISION = 3e-3  # of that factor, relative
TOP = 10  # of the NDCG that is climbed
WORTH_A_COPY = 0.5  # share of the cases, at most, of which a copy is made to climb on


class Cases(NamedTuple):
    """What the fit looks at."""

    scores_MCN: Tensor  # 0 where excluded
    excluded_CN: Tensor
    targets_CT: Tensor
    mask_CT: Tensor
    spread_M: Tensor  # standard deviation of a member's scores among a case's items, mean over cases


class Fitted(NamedTuple):
    """The weights, and the figures that chose them."""

    merge: Merge
    figures: dict[str, float]


def fit_merge(members: Mapping[str, Ranker], data: TrainingData, rivals: Mapping[str, Merge] | None = None) -> Fitted:
    """Weights of the members that rank the validation events best, with their times and without.

    Args:
        rivals: other weights of these members, by name; the best of them stays unless the fit finds what ranks
            better by more than a standard error of the paired difference.
    """
    rivals = rivals or {}
    merge = Merge(MergeConfig(tuple(members)))
    figures: dict[str, float] = {}
    timeless = data.events.without_times(np.ones(len(data.events), dtype=bool))
    for buffer, events, suffix in (("timed_M", data.events, ""), ("timeless_M", timeless, "_time_free")):
        cases = _cases(members, data, events)
        likely_M = _most_likely(cases)
        others = {name: getattr(rival, buffer) for name, rival in rivals.items()}
        contested = _contested(cases)
        climbed = [_climb(start_M, contested) for start_M in (likely_M, _equal_say(cases), *others.values())]
        weights_M = _calibrated(_chosen(climbed, list(others.values()), cases), cases)
        getattr(merge, buffer).copy_(weights_M)
        found = _figures(members, weights_M, likely_M, cases)
        found |= {f"ndcg@10_{name}": _ndcg(other_M, cases) for name, other_M in others.items()}
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
    spread_M = _spread(scores_MCN, excluded_CN)
    return Cases(scores_MCN, excluded_CN, known.targets_CT[::step], known.mask_CT[::step], spread_M)


def _spread(scores_MCN: Tensor, excluded_CN: Tensor) -> Tensor:
    """[M] means over cases; 0 where rounding alone tells a member's scores apart."""
    spreads, sizes = [], []
    for first in range(0, len(excluded_CN), CHUNK):
        chunk = slice(first, first + CHUNK)
        items_B, scores_MBN = (~excluded_CN[chunk]).sum(1).clamp_min(1), scores_MCN[:, chunk]
        centre_MB = scores_MBN.sum(2) / items_B  # excluded scores are 0
        apart_MBN = (scores_MBN - centre_MB[..., None]).masked_fill_(excluded_CN[chunk], 0.0)
        spreads.append((torch.linalg.vector_norm(apart_MBN, dim=2) / items_B.sqrt()).double())
        sizes.append((torch.linalg.vector_norm(scores_MBN, dim=2) / items_B.sqrt()).double())
    spread_M, size_M = (torch.cat(parts, dim=1).mean(1) for parts in (spreads, sizes))
    return spread_M.where(spread_M > ROUNDING * size_M, 0.0)


def _contested(cases: Cases) -> Cases:
    """The cases that weights decide: the others have NDCG@10 of 0 whatever these are, since none is negative.

    There `TOP` items or more stand above every target in the eyes of all members that tell items apart. Most cases are
    such, and the climb looks at each of them hundreds of times; all of them, where too few are.
    """
    useful_M = cases.spread_M > 0
    undecided = []
    for first in range(0, len(cases.targets_CT), CHUNK):
        chunk = slice(first, first + CHUNK)
        scores_MBN, mask_BT = cases.scores_MCN[useful_M, chunk], cases.mask_CT[chunk]
        at_target_MBT = scores_MBN.gather(2, cases.targets_CT[chunk].expand(len(scores_MBN), -1, -1))
        above_BT = torch.stack(
            [
                ((scores_MBN > at_target_MBT[..., t, None]).all(0) & ~cases.excluded_CN[chunk]).sum(1)
                for t in range(mask_BT.shape[1])
            ],
            dim=1,
        )
        undecided.append(((above_BT < TOP) & mask_BT).any(1))
    undecided_C = torch.cat(undecided)
    if not undecided_C.any() or undecided_C.float().mean() > WORTH_A_COPY:
        return cases
    scores_MKN, excluded_KN = cases.scores_MCN[:, undecided_C], cases.excluded_CN[undecided_C]
    return Cases(scores_MKN, excluded_KN, cases.targets_CT[undecided_C], cases.mask_CT[undecided_C], cases.spread_M)


def _pooled(weights_M: Tensor, cases: Cases, chunk: slice) -> Tensor:
    """[B, N] the pool's scores of some of the cases."""
    pooled_BN = torch.einsum("m,mcn->cn", weights_M.float(), cases.scores_MCN[:, chunk])
    return pooled_BN.masked_fill_(cases.excluded_CN[chunk], -torch.inf)


def _ndcg(weights_M: Tensor, cases: Cases) -> float:
    return _mean_ndcg(_pooled(weights_M, cases, slice(None)), cases)


def _mean_ndcg(scores_CN: Tensor, cases: Cases) -> float:
    ranks = rank_targets(scores_CN, cases.targets_CT, cases.mask_CT)
    return float(ranking_metrics(ranks, cutoffs=(TOP,))[f"ndcg@{TOP}"])


def _ndcg_of_each(weights_M: Tensor, cases: Cases) -> np.ndarray:
    """[C] NDCG@10."""
    ranks = rank_targets(_pooled(weights_M, cases, slice(None)), cases.targets_CT, cases.mask_CT)
    return per_user_metrics(ranks, (TOP,))[f"ndcg@{TOP}"]


def _chosen(climbed: list[Tensor], others: list[Tensor], cases: Cases) -> Tensor:
    """The best of what was climbed to, unless one of the other weights ranks as well but for a standard error."""
    found_M = max(climbed, key=lambda weights_M: _ndcg(weights_M, cases))  # of equals the first
    if not others:
        return found_M
    other_M = max(others, key=lambda weights_M: _ndcg(weights_M, cases))
    more_C = _ndcg_of_each(found_M, cases) - _ndcg_of_each(other_M, cases)
    return found_M if more_C.mean() > more_C.std() / math.sqrt(len(more_C)) else other_M


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
    """The weights, none negative, under which the targets are likeliest.

    An active set: Newton's method among the free members; where it ends below zero, the way there stops at the first
    weight that reaches zero, and that member is no longer free; one that the gradient asks for becomes free again. The
    likelihood rises with every step. Equal weights stay where no member helps.
    """
    members = cases.scores_MCN.shape[0]
    equal_M = torch.full((members,), 1.0 / members, dtype=torch.float64)
    useful_M = cases.spread_M > 0  # recency without times says the same of all items: it is never free
    free_M, weights_M = useful_M.clone(), _equal_say(cases)
    for _ in range(MOST_STEPS):
        if not free_M.any():
            break
        peak_M, gradient_M = _newton(weights_M, free_M, cases)
        if (peak_M < 0).any():
            share_M = torch.where(peak_M < 0, weights_M / (weights_M - peak_M), torch.inf)
            stopped = int(share_M.argmin())
            weights_M = (weights_M + share_M[stopped] * (peak_M - weights_M)).clamp_min(0.0)
            weights_M[stopped], free_M[stopped] = 0.0, False
            continue
        weights_M = peak_M
        asked_M = (gradient_M / cases.spread_M).masked_fill(free_M | ~useful_M, 0.0)
        if asked_M.max() <= NO_GRADIENT:
            break
        free_M[asked_M.argmax()] = True
    return weights_M if weights_M.any() else equal_M


def _equal_say(cases: Cases) -> Tensor:
    """Weights under which all members that tell items apart do so equally far, whatever the scale of their scores."""
    return (1.0 / (len(cases.spread_M) * cases.spread_M)).where(cases.spread_M > 0, 0.0)


def _newton(weights_M: Tensor, free_M: Tensor, cases: Cases) -> tuple[Tensor, Tensor]:
    """Where the likelihood is highest if the free weights may be anything, and its gradient there.

    Newton's method, halving a step that overshoots.
    """
    now = _likelihood(weights_M, cases)
    for _ in range(MOST_STEPS):
        curvature_FF = now.curvature_MM[free_M][:, free_M]
        damped_FF = curvature_FF + 1e-9 * curvature_FF.diagonal().diag()
        step_M = torch.zeros_like(weights_M)
        step_M[free_M] = torch.linalg.solve(damped_FF, now.gradient_M[free_M])
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
    return weights_M, now.gradient_M


def _climb(weights_M: Tensor, cases: Cases) -> Tensor:
    """One weight at a time, by what brings the highest NDCG@10, until nothing does."""
    best = _ndcg(weights_M, cases)
    for _ in range(ROUNDS):
        before = best
        for member in range(len(weights_M)):
            weights_M, best = _moved(weights_M, best, member, cases)
        if best == before:
            break
    return weights_M


def _moved(weights_M: Tensor, best: float, member: int, cases: Cases) -> tuple[Tensor, float]:
    """The weights with the best one of this member, and their NDCG@10."""
    others_M = weights_M.clone()
    others_M[member] = 0.0
    rest_CN = _pooled(others_M, cases, slice(None))  # the others' part is the same for all that is tried
    for weight in _tries(weights_M, member, cases):
        found = _mean_ndcg(torch.add(rest_CN, cases.scores_MCN[member], alpha=weight), cases)
        if found > best:
            best, weights_M = found, others_M.clone()
            weights_M[member] = weight
    return weights_M, best


def _tries(weights_M: Tensor, member: int, cases: Cases) -> list[float]:
    """Weights to try: the present one's multiples, or what gives a member that was left out a say beside the others.

    A member's say is its weight times how far it tells items apart: the spread of its scores. The last member is never
    left out.
    """
    alone = not (weights_M > 0)[torch.arange(len(weights_M)) != member].any()
    if weights_M[member] > 0:
        return [float(weights_M[member]) * factor for factor in STEPS if factor > 0 or not alone]
    if alone or cases.spread_M[member] == 0:
        return []
    say = float((weights_M * cases.spread_M)[weights_M > 0].mean() / cases.spread_M[member])
    return [say * share for share in SHARES]


def _calibrated(weights_M: Tensor, cases: Cases) -> Tensor:
    """The weights times the factor under which the targets are likeliest; there is one maximum."""

    def loss(log_factor: float) -> float:
        return -_log_likelihood(math.exp(log_factor) * weights_M, cases)

    ends = tuple(math.log(end) for end in FACTORS)
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": PRECISION})
    return math.exp(found.x) * weights_M


def _log_likelihood(weights_M: Tensor, cases: Cases) -> float:
    """Mean log-likelihood of a target."""
    total = 0.0
    for first in range(0, len(cases.targets_CT), CHUNK):
        chunk = slice(first, first + CHUNK)
        log_BN = _pooled(weights_M, cases, chunk).log_softmax(1)
        total += float(log_BN.gather(1, cases.targets_CT[chunk])[cases.mask_CT[chunk]].double().sum())
    return total / int(cases.mask_CT.sum())
