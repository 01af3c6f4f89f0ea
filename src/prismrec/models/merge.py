"""HyMiRec's merge (our choice): refined and coarse interests, linear transitions and recency pooled on one scale.

    score(i | u) = w_r log P(i | u, refined) + w_c log P(i | u, coarse) + w_t transitions(i | u) + w_n log P(i | now)

a log-linear pool: what one member rules out, the others cannot outvote, which ranks better than averaging
probabilities. The recommender sees the recent window in depth, the lightweight encoder the whole history in breadth,
the transitions what follows what, recency what everybody has met of late. The few weights are fitted on validation
events (`training/merging.py`), once for requests whose time is known and once for those without: times make the first
two surer, and recency needs them.

The pool keeps its interests. Each of the K refined and coarse ones gets its share of an item's score,

    P(k | i, u) ∝ w_member(k) · P_member(k | i, u),

so that every interest has a list of its own and the lists together are the pool again; transitions and recency belong
to all of them alike.

Shapes: B users, K interests of all members, M members, N items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prismrec.models.events import UNKNOWN_GAP, EventTable
from prismrec.models.linear_transitions import LINEAR_TRANSITIONS, LinearTransitions, age_weights
from prismrec.models.module import SavedModule
from prismrec.models.rankers import HYMIREC, InterestRanker, Ranker

SMALLEST_SHARE = 1e-6  # of the weight of a member that the merge leaves out: its interests own next to nothing


@dataclass(frozen=True)
class MergeConfig:
    """What a merge weighs.

    Attributes:
        members: their names, in the order of their weights.
        dictionary: version of the interest dictionary whose cells a member ranks by; empty where none does.
    """

    members: tuple[str, ...]
    dictionary: str = ""


class Merge(SavedModule):
    """The fitted weights of the pool's members, none negative."""

    kind: ClassVar[str] = "merge"
    config_class: ClassVar[type] = MergeConfig
    config: MergeConfig
    timed_M: Tensor
    timeless_M: Tensor

    def __init__(self, config: MergeConfig) -> None:
        super().__init__(MergeConfig(tuple(config.members), config.dictionary))
        for name in ("timed_M", "timeless_M"):
            self.register_buffer(name, torch.zeros(len(config.members), dtype=torch.float64))

    def widened(self, members: tuple[str, ...]) -> Merge:
        """The same weights among more members, which get none."""
        wider = Merge(MergeConfig(members))
        for m, name in enumerate(self.config.members):
            wider.timed_M[members.index(name)] = self.timed_M[m]
            wider.timeless_M[members.index(name)] = self.timeless_M[m]
        return wider.eval()

    def resting_on(self, dictionary: str) -> Merge:
        """The same weights for members of which one ranks by the cells of this dictionary."""
        merge = Merge(MergeConfig(self.config.members, dictionary))
        merge.load_state_dict(self.state_dict())
        return merge.eval()

    def weights(self) -> dict[str, float]:
        """Weight of each member by its name, and by its name with `_time_free` where times are unknown."""
        members = self.config.members
        timed = dict(zip(members, self.timed_M.tolist(), strict=True))
        return timed | {
            f"{name}_time_free": weight for name, weight in zip(members, self.timeless_M.tolist(), strict=True)
        }


def equal_weights(members: tuple[str, ...]) -> Merge:
    """The plain ensemble of these members, with times and without."""
    merge = Merge(MergeConfig(members))
    merge.timed_M.fill_(1.0 / len(members))
    merge.timeless_M.fill_(1.0 / len(members))
    return merge


class LinearTransitionsRanker(Ranker):
    """Items by their regression on the latest events."""

    name = LINEAR_TRANSITIONS

    def __init__(self, model: LinearTransitions) -> None:
        self.model = model
        self.length = max((len(age_weights(decay)) for decay in model.config.decays), default=0)

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Regressed indicator of the next item: [B, N]."""
        history = events.cut(users_B, (ends_B - self.length).clamp_min(0), ends_B)
        scores_BN: Tensor = self.model(history.items_BL, history.mask_BL)
        return scores_BN


class Pool(Ranker):
    """Members pooled by their weights; it tells no interests apart.

    Args:
        name: its row in tables.
        members: rankers by name.
        merge: the weights, of the same members.
    """

    def __init__(self, name: str, members: Mapping[str, Ranker], merge: Merge) -> None:
        assert tuple(members) == merge.config.members
        self.name, self.members, self.merge = name, dict(members), merge
        self.reads_time = any(member.reads_time for member in members.values())

    def weights(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> dict[str, Tensor]:
        """Each member's weight for each user [B, 1], by whether the time of the request is known."""
        known_B = events.cut(users_B, ends_B - 1, ends_B).until_BL[:, 0] != UNKNOWN_GAP
        weight_MB = torch.where(known_B, self.merge.timed_M[:, None], self.merge.timeless_M[:, None]).float()
        return {name: weight_B[:, None] for name, weight_B in zip(self.members, weight_MB, strict=True)}

    @property
    def held(self) -> int:
        """What the hungriest member holds, and each member's merged scores."""
        return max(member.held for member in self.members.values()) + len(self.members)

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Weighted sum of the members' scores."""
        weights = self.weights(events, users_B, ends_B)
        parts = []
        for name, member in self.members.items():
            if weights[name].any():
                scores_BN = member.scores(events, users_B, ends_B).float()
                # What a member of no weight rules out stays possible: 0 · -inf is no number.
                parts.append(torch.where(weights[name] > 0, weights[name] * scores_BN, 0.0))
        return torch.stack(parts).sum(0)


class MergedRanker(InterestRanker):
    """HyMiRec: a pool whose members' interests stay apart.

    Args:
        members: rankers by name; those that tell interests apart give the pool its interests.
        merge: the weights, of the same members.
    """

    name = HYMIREC
    reads_time = True

    def __init__(self, members: Mapping[str, Ranker], merge: Merge, recommendable_N: Tensor) -> None:
        self.pool, self.recommendable_N = Pool(HYMIREC, members, merge), recommendable_N
        self.num_interests = sum(teller.num_interests for teller in self.tellers)

    @property
    def tellers(self) -> list[InterestRanker]:
        """The members that tell interests apart."""
        return [member for member in self.pool.members.values() if isinstance(member, InterestRanker)]

    @property
    def held(self) -> int:
        """The members' interests, and each member's merged scores."""
        return self.num_interests + len(self.pool.members)

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """The pool's."""
        return self.pool.scores(events, users_B, ends_B)

    def joint(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """The pool's scores, shared out among the interests of all members: [B, K, N]."""
        weights = self.pool.weights(events, users_B, ends_B)
        scores_BN = torch.zeros(())
        claims = []  # each member's joint scores, and what its interests add up to, on its own scale
        shares = torch.zeros(())  # what the interests of all members add up to; those of one, to its weight
        for name, member in self.pool.members.items():  # one pass of each member gives its score and its interests'
            if isinstance(member, InterestRanker):
                joint_BKN = member.joint(events, users_B, ends_B).float()
                member_BN = joint_BKN.logsumexp(1)
                share_B1 = weights[name].clamp_min(SMALLEST_SHARE)
                claims.append((joint_BKN, member_BN - share_B1.log()))
                shares = shares + share_B1
            else:
                member_BN = member.scores(events, users_B, ends_B).float()
            scores_BN = scores_BN + weights[name] * member_BN
        scores_BN = scores_BN - shares.log()
        return torch.cat([joint_BKN + (scores_BN - whole_BN)[:, None] for joint_BKN, whole_BN in claims], dim=1)

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K, D] unit vectors of all members' interests."""
        vectors = [teller.interest_vectors(events, users_B, ends_B) for teller in self.tellers]
        return torch.cat([vector for vector in vectors if vector is not None], dim=1)

    def among(self, rows_C: Tensor) -> MergedRanker:
        """The members among them."""
        some = {name: member.among(rows_C) for name, member in self.pool.members.items()}
        return MergedRanker(some, self.pool.merge, self.recommendable_N[rows_C])

    def labels(self) -> list[str]:
        """The members' interests: refined, "now", coarse."""
        return [label for teller in self.tellers for label in teller.labels()]
