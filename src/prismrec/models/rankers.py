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

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.errors import UserError
from prismrec.models.events import EventBatch, EventTable
from prismrec.models.lightweight_encoder import LightweightEncoder
from prismrec.models.posterior import Posterior
from prismrec.models.recommender import Recommender, RecommenderConfig, Refined
from prismrec.models.retrieval_head import CellTable, RetrievalHead

POPULARITY = "popularity"
LIGHTWEIGHT_ENCODER = "lightweight_encoder"
LLM_RECOMMENDER = "llm_recommender"
HYMIREC = "hymirec"
GEMIREC = "gemirec"


class InterestRanking(NamedTuple):
    """One user's interests, strongest first, and what they say of the catalogue."""

    scores_N: np.ndarray  # log P(i | u); -inf where not recommendable
    interest_scores_KN: np.ndarray  # log P(i | u, k); -inf where the item isn't the interest's
    weights_K: np.ndarray  # P(k | u), of the interests returned; they sum to 1
    labels_K: list[str]  # stable ids, such as "refined-2" or a dictionary cell's "3-11"


class Ranker(ABC):
    """A fitted model ready to rank; baselines are no more than this.

    Attributes:
        name: its row in every table.
        reads_time: whether times, of the events or of the request, change what it says.
        num_interests: how many interests of a user it tells apart.
    """

    name: str
    reads_time: bool = False
    num_interests: int = 1

    @abstractmethod
    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Merged scores [B, N] after each user's first `ends_B` events, at least one; higher is better."""

    @property
    def held(self) -> int:
        """Score vectors [N] that are computed at once for a user; sets how many users are scored together."""
        return self.num_interests

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor | None:
        """The users' interests as unit vectors [B, K, D]; None where the model knows no interests."""
        return None


class ServedRanker(Ranker):
    """A ranker that tells interests apart, as the service shows them."""

    @abstractmethod
    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Merged scores [B, N] of each user's strongest interests only."""

    @abstractmethod
    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """Joint log P(k, i | u) of the first user's interests: [K, N], and the interests' ids."""

    @torch.inference_mode()
    def rank(
        self,
        items: np.ndarray,
        timestamps: np.ndarray | None,
        num_interests: int | None,
        now: int | None = None,
    ) -> InterestRanking:
        """Interests of one history.

        Args:
            items: [L] item indices, oldest first.
            timestamps: [L] seconds, or None where they are unknown.
            now: seconds, when the recommendation is asked for; None where that is unknown.
            num_interests: keep the strongest so many; all that the model has by default.
        """
        requests = None if now is None else np.array([now])
        joint_KN, labels = self.interests(EventTable(np.array([0, len(items)]), items, timestamps, requests=requests))
        mass_K = joint_KN.logsumexp(1)
        kept = torch.argsort(mass_K, descending=True, stable=True)[: num_interests or self.shown_interests()]
        weights_K = mass_K[kept].softmax(0)
        merged_N = (joint_KN if num_interests is None else joint_KN[kept]).logsumexp(0)
        return InterestRanking(
            merged_N.log_softmax(0).numpy(),
            (joint_KN[kept] - mass_K[kept, None]).numpy(),
            weights_K.numpy(),
            [labels[int(index)] for index in kept],
        )

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

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log-sum-exp over the interests."""
        return self.joint(events, users_B, ends_B).logsumexp(1)

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Log-sum-exp over the interests of most mass on what may be recommended."""
        joint_BKN = self.joint(events, users_B, ends_B)
        mass_BK = joint_BKN.masked_fill(~self.recommendable_N, -torch.inf).logsumexp(2)
        kept_BK = mass_BK.topk(min(num_interests, joint_BKN.shape[1]), dim=1).indices
        return joint_BKN.gather(1, kept_BK[..., None].expand(-1, -1, joint_BKN.shape[2])).logsumexp(1)

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """All interests of the first user."""
        joint_KN = self.joint(events, *_whole(events))[0].masked_fill(~self.recommendable_N, -torch.inf)
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
        self.num_interests = encoder.config.num_interests

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K_c, D] unit vectors."""
        history = events.cut(users_B, (ends_B - self.encoder.config.length).clamp_min(0), ends_B)
        interests_BKD: Tensor = self.encoder(self.items_ND[history.items_BL], history)
        return interests_BKD

    def joint(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Scaled cosines to the coarse interests."""
        return self.encoder.interest_scores(self.interest_vectors(events, users_B, ends_B), self.items_ND)

    def labels(self) -> list[str]:
        """The coarse interests, by number."""
        return [f"coarse-{k + 1}" for k in range(self.num_interests)]


class RefinedState(NamedTuple):
    """The recommender's outputs, with the recent window they belong to."""

    recent: EventBatch
    refined: Refined


class RecommenderRanker(InterestRanker):
    """The LLM recommender by itself: refined interests and the "now" interest, merged with the gate's weights.

    Args:
        recent_ND: item vectors that recent items are read from.
        long_ND: item vectors that the long history is read from.
    """

    name = LLM_RECOMMENDER
    reads_time = True

    def __init__(
        self,
        recommender: Recommender,
        items_ND: Tensor,
        recent_ND: Tensor,
        long_ND: Tensor,
        recommendable_N: Tensor,
    ) -> None:
        self.recommender, self.items_ND, self.recommendable_N = recommender, items_ND, recommendable_N
        self.recent_ND, self.long_ND = recent_ND, long_ND
        self.num_interests = recommender.config.num_interests + 1  # and "now"

    def state(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> RefinedState:
        """One forward pass over the recent window and the events before it."""
        config = self.recommender.config
        middle_B = (ends_B - config.recent_length).clamp_min(0)
        start_B = (middle_B - config.long_length).clamp_min(0)
        recent, long = events.cut(users_B, middle_B, ends_B), events.cut(users_B, start_B, middle_B)
        return RefinedState(recent, self.recommender(recent, long, self.recent_ND, self.long_ND))

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K + 1, D] unit vectors: refined interests, and "now"."""
        return self.state(events, users_B, ends_B).refined.interests

    def joint(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Scaled cosines to the interests, plus the gate."""
        return self.recommender.interest_scores(self.state(events, users_B, ends_B).refined, self.items_ND)

    def labels(self) -> list[str]:
        """K refined interests, and "now"."""
        return [*(f"refined-{k + 1}" for k in range(self.num_interests - 1)), "now"]


class GemiRecRanker(ServedRanker):
    """Posterior over dictionary interests times in-cell retrieval, on the LLM recommender's states.

    Args:
        labels_G: readable id of every cell.
    """

    name = GEMIREC
    reads_time = True

    def __init__(
        self,
        context: RecommenderRanker,
        posterior: Posterior,
        head: RetrievalHead,
        table: CellTable,
        labels_G: Callable[[int], str],
    ) -> None:
        if posterior.config.dictionary != head.config.dictionary:
            raise UserError(
                f"Posterior and retrieval belong to different dictionaries: {posterior.config.dictionary} and "
                f"{head.config.dictionary}.",
                "posterior, retrieval",
                "kedro run --pipelines interest_dictionary",
            )
        self.context, self.posterior, self.head, self.table = context, posterior, head, table
        self.label = labels_G
        self.num_interests = min(head.config.num_interests, int(table.occupied_G.sum()))
        self.centres_GD = _cell_centres(context.items_ND, table)

    @property
    def held(self) -> int:
        """Every cell holds as many places as the largest one, and a hidden state."""
        cells, places = self.table.items_GS.shape
        return math.ceil(cells * max(places, self.head.config.hidden) / len(self.table.cells_N))

    def _cells(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Refined]:
        """Log P(m | u) of every cell [B, G], and the recommender's outputs it rests on."""
        recent, refined = self.context.state(events, users_B, ends_B)
        states = self.posterior(recent, refined.next_BLD, self.context.items_ND, self.table.cells_N)
        return self.posterior.log_probabilities(states[:, -1]), refined

    def _parts(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor]:
        cells_BG, refined = self._cells(events, users_B, ends_B)
        items_ND = self.context.items_ND
        items_BN = self.head.log_probabilities(refined.next_BLD[:, -1], self.posterior.cells_GE, items_ND, self.table)
        return cells_BG, items_BN

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log P(m_i | u) + log P(i | u, m_i)."""
        cells_BG, items_BN = self._parts(events, users_B, ends_B)
        return cells_BG[:, self.table.cells_N] + items_BN

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K, D] unit vectors: mean item vectors of the cells of highest posterior, as many as are shown."""
        cells_BG, _ = self._cells(events, users_B, ends_B)
        best_BK = cells_BG.topk(self.num_interests, dim=1).indices
        return self.centres_GD[best_BK]

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Scores of the items of the cells of highest posterior."""
        cells_BG, items_BN = self._parts(events, users_B, ends_B)
        kept = cells_BG.topk(min(num_interests, cells_BG.shape[1]), dim=1).indices
        kept_BG = torch.full_like(cells_BG, -torch.inf).scatter(1, kept, cells_BG.gather(1, kept))
        return kept_BG[:, self.table.cells_N] + items_BN

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """Every non-empty cell is an interest; an item belongs to its own cell only."""
        cells_BG, items_BN = self._parts(events, *_whole(events))
        cells = torch.nonzero(self.table.occupied_G).flatten()
        joint_N = (cells_BG[:, self.table.cells_N] + items_BN)[0]
        own_KN = self.table.cells_N == cells[:, None]
        return joint_N.where(own_KN, -torch.inf), [self.label(int(cell)) for cell in cells]

    def shown_interests(self) -> int | None:
        """The number set when the head was trained."""
        return self.head.config.num_interests


def _whole(events: EventTable) -> tuple[Tensor, Tensor]:
    """The first user and the number of all their events."""
    return torch.zeros(1, dtype=torch.int64), events.offsets_U1[1:2]


def _cell_centres(items_ND: Tensor, table: CellTable) -> Tensor:
    """[G, D] unit mean of the vectors of every cell's recommendable items; zero for an empty cell."""
    counted = table.recommendable_N
    sums_GD = torch.zeros(len(table.occupied_G), items_ND.shape[1], dtype=torch.float64)
    sums_GD.index_add_(0, table.cells_N[counted], items_ND[counted].double())
    return F.normalize(sums_GD, dim=1).float()


def recent_and_long(items_ND: Tensor, decoded_ND: Tensor, config: RecommenderConfig) -> tuple[Tensor, Tensor]:
    """The tables that recent and long events are read from: item vectors, or these decoded from the codebook."""
    recent_ND = decoded_ND if config.recent_from_codebook else items_ND
    return recent_ND, decoded_ND if config.long_from == "codebook" else items_ND
