"""Disentangled multi-interest learning, DMIL (HyMiRec; the method as RED-Rec's public code has it).

1. The W events after the cut are a user's targets. A cosine k-means splits them into at most K groups.
2. The groups are matched one to one with the K interest vectors, at the largest sum of cosines.
3. Each target pulls the interest of its group, by a softmax over the catalogue (or over a sample) in which
   near-duplicates of the target do not count as negatives.

Notable: everything is batched on the device. K is small, so the best matching is found over all sets of interests (a
dynamic programme: K · 2^(K - 1) sums a user, where trying all permutations takes K · K!). An empty group takes no part;
an interest without a group gets no gradient from that user. The k-means starts from K distinct targets, drawn for each
user by itself.

Shapes: B users, W targets, K interests and groups, D item dimension, N items, P targets of all users, S sets of one
size, L members of a set.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.training.losses import catalogue_cross_entropy
from prismrec.training.negatives import Negatives

ITERATIONS = 5
MAX_INTERESTS = 8  # the sets of more would need an auction instead


class Groups(NamedTuple):
    """A user's targets in at most K groups."""

    centres_BKD: Tensor  # unit length
    used_BK: Tensor  # False for an empty group
    group_BW: Tensor  # int64, each target's group


def cosine_groups(targets_BWD: Tensor, mask_BW: Tensor, num_groups: int, lottery_BW: Tensor) -> Groups:
    """Cosine k-means of every user's targets.

    Args:
        targets_BWD: unit vectors.
        mask_BW: False where a user has fewer than W targets.
        num_groups: K.
        lottery_BW: random numbers in [0, 1); each user's K largest are where the groups start.
    """
    drawn_BW = lottery_BW.to(targets_BWD.device).masked_fill(~mask_BW, -1.0)
    start_BK = drawn_BW.topk(min(num_groups, drawn_BW.shape[1]), dim=1).indices
    start_BK = F.pad(start_BK, (0, num_groups - start_BK.shape[1]))
    used_BK = torch.arange(num_groups, device=mask_BW.device) < mask_BW.sum(1, keepdim=True)
    centres_BKD = targets_BWD.gather(1, start_BK[..., None].expand(-1, -1, targets_BWD.shape[2]))
    for _ in range(ITERATIONS):
        cosine_BWK = targets_BWD @ centres_BKD.transpose(1, 2)
        group_BW = cosine_BWK.masked_fill(~used_BK[:, None], -torch.inf).argmax(-1)
        member_BKW = (F.one_hot(group_BW, num_groups).bool() & mask_BW[..., None]).transpose(1, 2)
        used_BK = member_BKW.any(-1)
        centres_BKD = F.normalize(member_BKW.to(targets_BWD.dtype) @ targets_BWD, dim=-1)
    return Groups(centres_BKD, used_BK, group_BW)


class _Sets(NamedTuple):
    """All sets of so many interests."""

    members_SL: Tensor  # the interests of each
    without_SL: Tensor  # the place, among the sets of one fewer, of the set without that member


@lru_cache(maxsize=8)
def _sets(size: int) -> tuple[_Sets, ...]:
    """Those of 1, 2, … and of all interests."""
    found: list[_Sets] = []
    places: dict[tuple[int, ...], int] = {(): 0}
    for number in range(1, size + 1):
        sets = list(combinations(range(size), number))
        without = [[places[one[:k] + one[k + 1 :]] for k in range(number)] for one in sets]
        found.append(_Sets(torch.tensor(sets), torch.tensor(without)))
        places = {one: place for place, one in enumerate(sets)}
    return tuple(found)


def best_matching(similarity_BKK: Tensor) -> Tensor:
    """One-to-one matching of groups to interests with the largest sum: [B, K], the interest of each group.

    The first g groups share a set of g interests; of each set only the best sum is kept, with the interest that the
    last group gets in it.
    """
    (batch, size, _), device = similarity_BKK.shape, similarity_BKK.device
    assert size <= MAX_INTERESTS
    sets = [_Sets(*(part.to(device) for part in each)) for each in _sets(size)]
    total_BS, last_gBS = similarity_BKK.new_zeros(batch, 1), []
    for group, (members_SL, without_SL) in enumerate(sets):
        total_BS, last_BS = (total_BS[:, without_SL] + similarity_BKK[:, group, members_SL]).max(-1)
        last_gBS.append(last_BS)
    interests, place_B = [], torch.zeros(batch, dtype=torch.int64, device=device)
    for (members_SL, without_SL), last_BS in zip(reversed(sets), reversed(last_gBS), strict=True):
        member_B = last_BS.gather(1, place_B[:, None])[:, 0]
        interests.append(members_SL[place_B, member_B])
        place_B = without_SL[place_B, member_B]
    return torch.stack(interests[::-1], dim=1)


@torch.no_grad()
def assign_interests(interests_BKD: Tensor, targets_BWD: Tensor, mask_BW: Tensor, lottery_BW: Tensor) -> Tensor:
    """The interest each target is to pull: [B, W] int64 (meaningless where the mask is False)."""
    groups = cosine_groups(targets_BWD, mask_BW, interests_BKD.shape[1], lottery_BW)
    similarity_BKK = groups.centres_BKD @ interests_BKD.transpose(1, 2).to(targets_BWD.dtype)
    interest_BK = best_matching(similarity_BKK.float() * groups.used_BK[..., None])
    return interest_BK.gather(1, groups.group_BW)


def dmil_loss(
    interests_BKD: Tensor,
    targets_BW: Tensor,
    mask_BW: Tensor,
    items_ND: Tensor,
    scale: Tensor,
    duplicate_cosine: float,
    lottery_BW: Tensor,
    negatives: Negatives | None = None,
) -> Tensor:
    """Mean over targets of the negative log-likelihood under the matched interest.

    Args:
        interests_BKD: unit vectors.
        targets_BW: item indices of the next events.
        mask_BW: False where there is no target.
        items_ND: the catalogue's unit vectors.
        scale: inverse temperature.
        duplicate_cosine: items at least this similar to the target are no negatives.
        lottery_BW: draws where the groups start; see `cosine_groups`.
        negatives: what the targets are compared with; the whole catalogue where None.
    """
    targets_BWD = items_ND.detach()[targets_BW]
    interest_BW = assign_interests(interests_BKD.detach(), targets_BWD, mask_BW, lottery_BW)
    matched_BWD = interests_BKD.gather(1, interest_BW[..., None].expand(-1, -1, interests_BKD.shape[2]))
    if negatives is not None:
        negatives = negatives.of(mask_BW.nonzero()[:, 0])
    return catalogue_cross_entropy(
        matched_BWD[mask_BW], targets_BW[mask_BW], items_ND, scale, duplicate_cosine, negatives
    )
