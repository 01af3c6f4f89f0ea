"""From several interests' lists to one list: three merges, and one dial from accuracy to diversity.

What is merged is log P(k, i | u), an interest's claim on an item, -inf where the interest does not have the item or
the item may not be shown: so every place below counts only what may be shown. A dictionary's items have one cell each
(`cell_lists`); HyMiRec's interests all score all items.

- `factorised`: log Σ_k P(k, i | u), the likelihood, and what a pool of models needs;
- `max_score`: the item's best score in any list, whatever the interest's weight (pooling, as ComiRec's lineage does);
- `quotas`: the lists' first items, then their second ones, and so on: the same number of places for every interest.

The dial (our choice) takes an item's place among its owner's items into account:

    score'(i) = log P(i | u) - β · log(place of i among its owner's items),   β = d / (1 - d),   d in [0, 1]

d = 0 is the likelihood; at d = 1/2 an interest's probability is divided by 1, 2, 3, … as its items take seats, which
are D'Hondt's divisors; at d = 1 the lists are read round by round. Notable: no greedy loop. Places do not depend on
what was chosen before, for an interest's first k items stand in the list in their own order. Two things follow, and
are tested: the first item never changes, and as d grows the distinct owners among the first k never fall (an owner's
first item keeps its score, and all others lose).

Shapes: B users, K interests, N items.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["likelihood", "max_score", "quotas"]
ROUND_BY_ROUND = 1e6  # largest β: two places within a thousand differ by more than any two log-probabilities do
REST = 1e8  # how far the items of interests that are not shown lie below: below any place among those that are


def cell_lists(scores_BN: Tensor, cells_N: Tensor, kept_BK: Tensor) -> Tensor:
    """Log P(k, i | u) of some cells of a dictionary, each of which has its own items alone: [B, K, N].

    Args:
        scores_BN: log P(i | u).
        cells_N: each item's cell.
        kept_BK: each user's cells.
    """
    return scores_BN[:, None].where(cells_N == kept_BK[..., None], -torch.inf)


def factorised(joint_BKN: Tensor) -> Tensor:
    """Log P(i | u) over the interests given: [B, N]."""
    return joint_BKN.logsumexp(1)


def max_score(joint_BKN: Tensor) -> Tensor:
    """Largest log P(i | u, k): [B, N]; an interest's weight does not matter."""
    mass_BK1 = joint_BKN.logsumexp(2, keepdim=True)
    return (joint_BKN - mass_BK1.where(mass_BK1 > -torch.inf, 0.0)).amax(1)


def quotas(joint_BKN: Tensor) -> Tensor:
    """Scores that order items by their best place in any list, those of one place by log P(i | u): [B, N] float64."""
    order_BKN = joint_BKN.argsort(dim=2, descending=True, stable=True)
    place_BKN = order_BKN.argsort(dim=2) + 1
    best_BN = place_BKN.where(joint_BKN > -torch.inf, joint_BKN.shape[2]).amin(1)
    return factorised(joint_BKN).double() - ROUND_BY_ROUND * best_BN.double().log()


def listed(rule: Rule, joint_BKN: Tensor, scores_BN: Tensor) -> Tensor:
    """Scores whose order is a rule's list: [B, N] float64.

    The rule speaks of the interests given; what only others have comes after them by likelihood, so that no filter
    leaves a list short.

    Args:
        joint_BKN: log P(k, i | u) of the interests shown.
        scores_BN: log P(i | u) of all interests; -inf in both where an item may not be shown.
    """
    if rule == "likelihood":
        return scores_BN.double()
    merged_BN = (max_score if rule == "max_score" else quotas)(joint_BKN).double()
    return merged_BN.where(merged_BN > -torch.inf, scores_BN.double() - REST)


def owners(joint_BKN: Tensor) -> Tensor:
    """The interest with the largest claim on each item: [B, N] int64; of equal claims the first."""
    return joint_BKN.argmax(1)


def places(scores_BN: Tensor, owners_BN: Tensor) -> Tensor:
    """Place of each item among its owner's items, from 1, best first; equal scores by index: [B, N] int64."""
    order_BN = scores_BN.argsort(dim=1, descending=True, stable=True)
    grouped_BN = owners_BN.gather(1, order_BN).sort(dim=1, stable=True)
    order_BN = order_BN.gather(1, grouped_BN.indices)  # by owner, and best first within one
    column_BN = torch.arange(scores_BN.shape[1], device=scores_BN.device).expand_as(order_BN)
    starts_BN = torch.ones_like(order_BN, dtype=torch.bool)
    starts_BN[:, 1:] = grouped_BN.values[:, 1:] != grouped_BN.values[:, :-1]
    first_BN = column_BN.where(starts_BN, 0).cummax(1).values
    return torch.empty_like(order_BN).scatter_(1, order_BN, column_BN - first_BN + 1)


def diversified(scores_BN: Tensor, owners_BN: Tensor, diversity: float) -> Tensor:
    """The dial: scores whose order is a list of so much diversity: [B, N] float64.

    Args:
        scores_BN: log P(i | u), -inf where an item may not be shown.
        owners_BN: the interest that each item counts for, as any number.
        diversity: d, from 0 (the likelihood) to 1 (round by round).
    """
    assert 0.0 <= diversity <= 1.0, f"diversity lies in [0, 1], not at {diversity}"
    strength = min(diversity / (1.0 - diversity), ROUND_BY_ROUND) if diversity < 1.0 else ROUND_BY_ROUND
    if strength == 0.0:
        return scores_BN.double()
    return scores_BN.double() - strength * places(scores_BN, owners_BN).double().log()
