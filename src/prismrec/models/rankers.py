"""Rankers: every fitted model as one thing that scores the catalogue, for evaluation and serving alike.

A ranker turns histories into interests, and each interest into log-probabilities over the catalogue. Evaluation asks
for the merged scores of many users at once (`scores`), serving for one user's interests (`rank`); both rest on the
same code, so what was measured is what is served.

    log P(i | u) = log Σ_k P(k | u) P(i | u, k)

holds for all of them: in HyMiRec's merge k runs over refined and coarse interests (`merge.py`), in GemiRec's over
dictionary cells, of which an item has exactly one.

Shapes: B users, K interests, N items, G cells, D item dimension.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from prismrec.models.events import EventBatch, EventTable
from prismrec.models.lightweight_encoder import LightweightEncoder
from prismrec.models.recommender import Recommender, RecommenderConfig, Refined
from prismrec.quantization.code_table import VectorTable
from prismrec.retrieval.merging import Rule

POPULARITY = "popularity"
LIGHTWEIGHT_ENCODER = "lightweight_encoder"
LLM_RECOMMENDER = "llm_recommender"
HYMIREC = "hymirec"
GEMIREC = "gemirec"
PRISMREC = "prismrec"


class InterestRanking(NamedTuple):
    """One user's interests, strongest first, and what they say of the catalogue."""

    scores_N: np.ndarray  # log P(i | u); -inf where not recommendable
    interest_scores_KN: np.ndarray  # log P(i | u, k); -inf where the item isn't the interest's
    weights_K: np.ndarray  # P(k | u), of the interests returned; they sum to 1
    labels_K: list[str]  # stable ids, such as "refined-2" or a dictionary cell's "3-11"
    rows: np.ndarray | None = None  # int64, the items that the N columns are of, rising; None: all of them

    def rows_of(self, columns: np.ndarray) -> np.ndarray:
        """The items of some columns."""
        return columns if self.rows is None else self.rows[columns]


class Claims(NamedTuple):
    """What many users' interests say of the catalogue, as far as lists need it; G interests of the model."""

    scores_BN: Tensor  # log P(i | u); -inf where not recommendable
    weights_BG: Tensor  # log P(k | u)
    owners_BN: Tensor  # int64, the interest that wants the item most
    labels_G: list[str]  # stable ids of the interests


class Ranker(ABC):
    """A fitted model ready to rank; baselines are no more than this.

    Attributes:
        name: its row in every table.
        reads_time: whether times, of the events or of the request, change what it says.
        num_interests: how many interests of a user it tells apart.
        items_ND: item vectors in the space of its interests, where it has these.
    """

    name: str
    reads_time: bool = False
    num_interests: int = 1
    items_ND: Tensor

    @abstractmethod
    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Merged scores [B, N] after each user's first `ends_B` events, at least one; higher is better."""

    def listed(self, scores_BN: Tensor, left_BN: Tensor) -> Tensor:
        """What lists are ordered by: [B, N]; the scores, unless a ranker merges its interests by another rule.

        Args:
            scores_BN: what `scores` says.
            left_BN: the same, -inf where an item may not be shown.
        """
        return left_BN

    @property
    def held(self) -> int:
        """Score vectors [N] that are computed at once for a user; sets how many users are scored together."""
        return self.num_interests

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor | None:
        """The users' interests as unit vectors [B, K, D]; None where the model knows no interests."""
        return None

    @property
    def tellers(self) -> Sequence[Ranker]:
        """The rankers that its interests come from, in their order; each has item vectors in a space of its own."""
        return [self]

    def among(self, rows_C: Tensor) -> Ranker:
        """The same ranker with the scores of some items only, in C columns."""
        return _Among(self, rows_C)


class _Among(Ranker):
    """Some columns of what a ranker says."""

    def __init__(self, whole: Ranker, rows_C: Tensor) -> None:
        self.whole, self.rows_C, self.name = whole, rows_C, whole.name

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, C]."""
        return self.whole.scores(events, users_B, ends_B)[:, self.rows_C]


class ServedRanker(Ranker):
    """A ranker that tells interests apart, as the service shows them.

    Attributes:
        dictionary: version of the dictionary whose cells its interests are; None where they are no dictionary's.
        rule: how one list is made of those of its interests.
    """

    dictionary: str | None = None
    rule: Rule = "likelihood"

    @abstractmethod
    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Merged scores [B, N] of each user's strongest interests only."""

    @abstractmethod
    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """Joint log P(k, i | u) of the first user's interests: [K, N], and the interests' ids."""

    def conditioned_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor | None:
        """[B, K, D] the user's vectors under each of the interests shown; None where interests are the user's own."""
        return None

    def claims(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Claims:
        """Scores, weights of interests and owners of items for many users: what `rank` says of each of them.

        One user at a time, unless a ranker knows a better way.
        """
        alone = [events.alone(user, end) for user, end in zip(users_B.tolist(), ends_B.tolist(), strict=True)]
        joint_BKN, labels = zip(*map(self.interests, alone), strict=True)
        return claims_of(torch.stack(joint_BKN), labels[0])

    def rank(
        self,
        items: np.ndarray,
        timestamps: np.ndarray | None,
        num_interests: int | None,
        now: int | None = None,
    ) -> InterestRanking:
        """Interests of one history, a non-empty one unless the ranker is the same for everybody.

        Args:
            items: [L] item indices, oldest first.
            timestamps: [L] seconds, or None where they are unknown.
            now: seconds, when the recommendation is asked for; None where that is unknown.
            num_interests: keep the strongest so many; all that the model has by default.
        """
        return self.rank_all(one_history(items, timestamps, now), [num_interests])[0]

    @torch.inference_mode()
    def rank_all(self, events: EventTable, num_interests_B: Sequence[int | None]) -> list[InterestRanking]:
        """What `rank` says of every user of a table, by the users' order; sums may come out in another order.

        One user at a time, unless a ranker knows a better way.

        Args:
            events: of B users.
            num_interests_B: for each of them, as for `rank`.
        """
        ends = events.offsets_U1.diff().tolist()
        joint = [self.interests(events.alone(user, end)) for user, end in enumerate(ends)]
        return [self._ranked(*one, wanted) for one, wanted in zip(joint, num_interests_B, strict=True)]

    def _ranked(self, joint_KN: Tensor, labels: list[str], num_interests: int | None) -> InterestRanking:
        if num_interests is None:
            return ranking(joint_KN, joint_KN.logsumexp(0), labels, self.shown_interests())
        return strongest_ranking(joint_KN, labels, num_interests)

    def shown_interests(self) -> int | None:
        """How many interests to return unless told; None: all."""
        return None


class InterestRanker(ServedRanker):
    """A ranker whose interests all score all items, so that several rankers' interests can be merged."""

    recommendable_N: Tensor

    @abstractmethod
    def joint(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log P(k, i | u) up to a constant for each user: [B, K, N]."""

    @abstractmethod
    def labels(self) -> list[str]:
        """Ids of the K interests."""

    @abstractmethod
    def among(self, rows_C: Tensor) -> InterestRanker:
        """Only these items are scored; histories are read as before."""

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log-sum-exp over the interests."""
        return self.joint(events, users_B, ends_B).logsumexp(1)

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Log-sum-exp over the interests of most mass on what may be recommended."""
        joint_BKN = self.joint(events, users_B, ends_B)
        mass_BK = joint_BKN.masked_fill(~self.recommendable_N, -torch.inf).logsumexp(2)
        kept_BK = mass_BK.topk(min(num_interests, joint_BKN.shape[1]), dim=1).indices
        return joint_BKN.gather(1, kept_BK[..., None].expand(-1, -1, joint_BKN.shape[2])).logsumexp(1)

    def claims(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Claims:
        """All users at once."""
        joint_BKN = self.joint(events, users_B, ends_B).masked_fill(~self.recommendable_N, -torch.inf)
        return claims_of(joint_BKN, self.labels())

    @torch.inference_mode()
    def rank_all(self, events: EventTable, num_interests_B: Sequence[int | None]) -> list[InterestRanking]:
        """All users at once."""
        joint_BKN = self.joint(events, *everybody(events)).masked_fill(~self.recommendable_N, -torch.inf)
        labels = self.labels()
        return [self._ranked(*one) for one in zip(joint_BKN, [labels] * len(events), num_interests_B, strict=True)]

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """All interests of the first user."""
        joint_KN = self.joint(events, *whole(events))[0].masked_fill(~self.recommendable_N, -torch.inf)
        return joint_KN - joint_KN.flatten().logsumexp(0), self.labels()


class PopularityRanker(ServedRanker):
    """Items by their number of events; the same for everybody."""

    name = POPULARITY

    def __init__(self, counts_N: np.ndarray, recommendable_N: Tensor) -> None:
        counts = torch.as_tensor(np.asarray(counts_N, dtype=np.float64)) + 1.0
        self.log_share_N = counts.log().masked_fill(~recommendable_N, -torch.inf).log_softmax(0).float()

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log popularity, for every user."""
        return self.log_share_N.expand(len(users_B), -1)

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """The same: there is one interest."""
        return self.scores(events, users_B, ends_B)

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """One interest: what is popular."""
        return self.log_share_N[None], ["popular"]


class LightweightEncoderRanker(InterestRanker):
    """The lightweight encoder by itself: coarse interests merged by log-sum-exp."""

    name = LIGHTWEIGHT_ENCODER
    reads_time = True

    def __init__(self, encoder: LightweightEncoder, items_ND: Tensor, recommendable_N: Tensor) -> None:
        self.encoder, self.items_ND, self.recommendable_N = encoder, items_ND, recommendable_N
        self.read_ND = items_ND  # what events are read from
        self.num_interests = encoder.config.num_interests

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K_c, D] unit vectors."""
        history = events.cut(users_B, (ends_B - self.encoder.config.length).clamp_min(0), ends_B)
        interests_BKD: Tensor = self.encoder(self.read_ND[history.items_BL], history)
        return interests_BKD

    def joint(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Scaled cosines to the coarse interests."""
        return self.encoder.interest_scores(self.interest_vectors(events, users_B, ends_B), self.items_ND)

    def labels(self) -> list[str]:
        """The coarse interests, by number."""
        return [f"coarse-{k + 1}" for k in range(self.num_interests)]

    def among(self, rows_C: Tensor) -> LightweightEncoderRanker:
        """With their vectors alone."""
        return _with_items(self, rows_C)


class RefinedState(NamedTuple):
    """The recommender's outputs, with the recent window they belong to."""

    recent: EventBatch
    refined: Refined


class RecommenderRanker(InterestRanker):
    """The LLM recommender by itself: refined interests and "now", if it has that, merged with the gate's weights.

    Args:
        vectors_ND: item vectors of the catalogue; the recommender ranks them with its offsets (`items_ND`).
        recent_ND: item vectors that recent items are read from.
        long_ND: item vectors that the long history is read from.
        predictions: of how many of the last events the state predicts the next; all if None, one is enough to rank by.
    """

    name = LLM_RECOMMENDER
    reads_time = True

    def __init__(
        self,
        recommender: Recommender,
        vectors_ND: Tensor,
        recent_ND: VectorTable,
        long_ND: VectorTable,
        recommendable_N: Tensor,
        predictions: int | None = None,
    ) -> None:
        self.recommender, self.vectors_ND, self.recommendable_N = recommender, vectors_ND, recommendable_N
        self.predictions = predictions
        self.recent_ND, self.long_ND = recent_ND, long_ND
        self.num_interests = recommender.config.num_interests + recommender.config.now
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the items as the recommender ranks them now; after its offsets have changed."""
        self.items_ND = self.recommender.items(self.vectors_ND)

    def predicting(self, predictions: int | None) -> RecommenderRanker:
        """The same ranker with another number of predictions."""
        other = copy.copy(self)
        other.predictions = predictions
        return other

    def state(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> RefinedState:
        """One forward pass over the recent window and the events before it."""
        config = self.recommender.config
        middle_B = (ends_B - config.recent_length).clamp_min(0)
        start_B = (middle_B - config.long_length).clamp_min(0)
        recent, long = events.cut(users_B, middle_B, ends_B), events.cut(users_B, start_B, middle_B)
        refined = self.recommender(recent, long, self.recent_ND, self.long_ND, self.predictions)
        return RefinedState(recent, refined)

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K + 1, D] unit vectors: refined interests, and "now"; K where there is no "now"."""
        return self.state(events, users_B, ends_B).refined.interests

    def joint(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Scaled cosines to the interests, plus the gate."""
        return self.recommender.interest_scores(self.state(events, users_B, ends_B).refined, self.items_ND)

    def labels(self) -> list[str]:
        """K refined interests, and "now" if there is one."""
        refined = [f"refined-{k + 1}" for k in range(self.recommender.config.num_interests)]
        return [*refined, "now"] if self.recommender.config.now else refined

    def among(self, rows_C: Tensor) -> RecommenderRanker:
        """With their vectors alone."""
        return _with_items(self, rows_C)


_R = TypeVar("_R", LightweightEncoderRanker, RecommenderRanker)


def _with_items(ranker: _R, rows_C: Tensor) -> _R:
    some = copy.copy(ranker)
    some.items_ND, some.recommendable_N = ranker.items_ND[rows_C], ranker.recommendable_N[rows_C]
    return some


def one_history(items: np.ndarray, timestamps: np.ndarray | None, now: int | None) -> EventTable:
    """The events of one history, and when something is asked for after them; see `ServedRanker.rank`."""
    requests = None if now is None else np.array([now])
    return EventTable(np.array([0, len(items)]), items, timestamps, requests=requests)


def strongest_ranking(joint_KN: Tensor, labels: list[str], num_interests: int) -> InterestRanking:
    """A ranking by the strongest interests alone."""
    kept = torch.argsort(joint_KN.logsumexp(1), descending=True, stable=True)[:num_interests]
    joint_KN, labels = joint_KN[kept], [labels[int(index)] for index in kept]
    return ranking(joint_KN, joint_KN.logsumexp(0), labels, num_interests)


def ranking(joint_KN: Tensor, merged_N: Tensor, labels: list[str], shown: int | None) -> InterestRanking:
    """One user's interests, strongest first, beside a merged list.

    Args:
        joint_KN: log P(k, i | u).
        merged_N: scores of the merged list.
        labels: ids of the K interests.
        shown: interests shown at most; all if None.
    """
    mass_K = joint_KN.logsumexp(1)
    kept = torch.argsort(mass_K, descending=True, stable=True)[:shown]
    return InterestRanking(
        merged_N.log_softmax(0).numpy(),
        (joint_KN[kept] - mass_K[kept, None]).numpy(),
        mass_K[kept].softmax(0).numpy(),
        [labels[int(index)] for index in kept],
    )


def claims_of(joint_BKN: Tensor, labels: list[str]) -> Claims:
    """Claims of interests that all have a say in every item.

    Args:
        joint_BKN: log P(k, i | u), up to a constant for each user.
        labels: ids of the K interests.
    """
    weights_BK = joint_BKN.logsumexp(2).log_softmax(1)
    return Claims(joint_BKN.logsumexp(1).log_softmax(1), weights_BK, joint_BKN.argmax(1), labels)


def whole(events: EventTable) -> tuple[Tensor, Tensor]:
    """The first user and the number of all their events."""
    return torch.zeros(1, dtype=torch.int64), events.offsets_U1[1:2]


def everybody(events: EventTable) -> tuple[Tensor, Tensor]:
    """All users, and the number of each one's events."""
    return torch.arange(len(events)), events.offsets_U1.diff()


def recent_and_long(
    items_ND: Tensor, decoded_ND: VectorTable, config: RecommenderConfig
) -> tuple[VectorTable, VectorTable]:
    """The tables that recent and long events are read from: item vectors, or these decoded from the codebook."""
    recent_ND = decoded_ND if config.recent_from_codebook else items_ND
    return recent_ND, decoded_ND if config.long_from == "codebook" else items_ND
