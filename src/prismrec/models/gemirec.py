"""GemiRec ready to rank: posterior over dictionary interests times retrieval inside each of them.

    log P(i | u) = log P(m_i | u) + log P(i | u, m_i)

An interest is a cell of the dictionary, of which an item has exactly one. Both parts rest on the LLM recommender's
states, the user context (our choice). The variant `mixture` sums over the interests shown instead:

    P(i | u) = Σ_m P(m | u) P(i | u, m)

Shapes: B users, K interests, N items, G cells, D item dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from prismrec.errors import UserError
from prismrec.models.cells import CellRanker
from prismrec.models.events import EventBatch, EventTable
from prismrec.models.posterior import Knobs, Posterior
from prismrec.models.rankers import GEMIREC, Claims, RecommenderRanker, ServedRanker, whole
from prismrec.models.recommender import Refined
from prismrec.models.retrieval_head import CellTable, RetrievalHead
from prismrec.retrieval.merging import cell_lists, listed


class KeptInterests(NamedTuple):
    """What the networks said of one user, small enough to be kept between requests."""

    cells_K: Tensor  # int64, the cells of highest posterior
    log_K: Tensor  # log P(m | u)
    user_D: Tensor  # the recommender's state


class GemiRecRanker(CellRanker):
    """Posterior over dictionary interests times in-cell retrieval, on the LLM recommender's states.

    Args:
        labels_G: readable id of every cell.
    """

    name = GEMIREC

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
        if not context.recommender.config.now:
            raise UserError(
                "No loss taught the recommender what comes next, which GemiRec rests on.",
                "llm_recommender.next_item_weight",
                "Set it above 0, and train the recommender again; `make ablations` measures HyMiRec without it.",
            )
        super().__init__(table, context.items_ND, labels_G, head.config.dictionary, head.config.num_interests)
        self.context, self.posterior, self.head, self.rule = context, posterior, head, head.config.merge
        if not posterior.exact:
            self.num_interests = min(self.num_interests, posterior.config.beam)

    @property
    def held(self) -> int:
        """A hidden state and a vector of every cell, and padded places, up to two an item; another rule lists them."""
        of_cells = len(self.table.occupied_O) * max(self.head.config.hidden, self.head.config.dim)
        scored = 2 + math.ceil(of_cells / len(self.table.cells_N))
        return scored if self.rule == "likelihood" else max(scored, 3 * self.num_interests)

    def listed(self, scores_BN: Tensor, left_BN: Tensor) -> Tensor:
        """By the rule, of the interests shown: the likeliest cells, whatever of their items may be shown."""
        if self.rule == "likelihood":
            return left_BN
        mass_BG = scores_BN.new_zeros(len(scores_BN), len(self.table.occupied_G))
        mass_BG.index_add_(1, self.table.cells_N, scores_BN.exp())
        kept_BK = mass_BG.topk(self.num_interests, dim=1).indices
        return listed(self.rule, cell_lists(left_BN, self.table.cells_N, kept_BK), left_BN)

    def prior(self, next_PD: Tensor) -> Tensor | None:
        """What the recommender's next-item predictions say of cells: [P, G]; None where the posterior has no prior."""
        if not self.posterior.config.prior:
            return None
        return self.table.log_mass(self.context.recommender.scale * next_PD @ self.context.items_ND.T)

    def cells(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log P(m | u) of every cell: [B, G]."""
        return self._cells(events, users_B, ends_B)[0]

    def _cells(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Refined]:
        """Log P(m | u) of every cell [B, G], and the recommender's outputs it rests on."""
        recent, refined = self.context.state(events, users_B, ends_B)
        log_BG = self.posterior.log_probabilities(*self._state(recent, refined))
        if self.knobs != Knobs():
            seen_BG = self.table.seen(events.cut(users_B, torch.zeros_like(ends_B), ends_B))
            log_BG = self.knobs.turn(log_BG, seen_BG)
        return log_BG, refined

    def states(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the posterior's probabilities are computed from: the decoder's last state [B, H], and the prior."""
        return self._state(*self.context.state(events, users_B, ends_B))

    def _state(self, recent: EventBatch, refined: Refined) -> tuple[Tensor, Tensor | None]:
        states_BLH = self.posterior(recent, refined.next_BLD, self.context.vectors_ND, self.table.cells_N)
        return states_BLH[:, -1], self.prior(refined.next_BLD[:, -1])

    def conditioned_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K, D] what retrieval searches the likeliest cells with, as many as are shown; unit length."""
        cells_BG, refined = self._cells(events, users_B, ends_B)
        best_BK = cells_BG.topk(self.num_interests, dim=1).indices
        conditioned_BKD: Tensor = self.head(refined.next_BLD[:, -1], self.posterior.cells_GE[best_BK])
        return conditioned_BKD

    def cells_and_scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log P(m | u), and log P(m_i | u) + log P(i | u, m_i)."""
        cells_BG, refined = self._cells(events, users_B, ends_B)
        return cells_BG, self._scores(cells_BG, refined.next_BLD[:, -1])

    def _scores(self, cells_BG: Tensor, user_BD: Tensor) -> Tensor:
        items_ND = self.context.items_ND
        items_BN = self.head.log_probabilities(user_BD, self.posterior.cells_GE, items_ND, self.table)
        return cells_BG[:, self.table.cells_N] + items_BN

    def keep(self, events: EventTable, num_interests: int) -> KeptInterests:
        """The first user's strongest interests, for `kept_interests` to go on from: the nearline part of the work."""
        cells_1G, refined = self._cells(events, *whole(events))
        best = cells_1G[0].topk(min(num_interests, int(self.table.occupied_G.sum())))
        return KeptInterests(best.indices, best.values, refined.next_BLD[0, -1])

    def kept_interests(self, kept: KeptInterests) -> tuple[Tensor, list[str]]:
        """`interests` of those kept, without any network but the retrieval head."""
        cells_1G = kept.log_K.new_full((1, len(self.table.occupied_G)), -torch.inf)
        cells_1G[0, kept.cells_K] = kept.log_K
        joint_KN, labels = self._interests(cells_1G, kept.user_D[None])
        some_K = joint_KN.isfinite().any(1)
        return joint_KN[some_K], [label for label, some in zip(labels, some_K.tolist(), strict=True) if some]

    def _interests(self, cells_1G: Tensor, user_1D: Tensor) -> tuple[Tensor, list[str]]:
        return self.by_cell(self._scores(cells_1G, user_1D)[0], cells_1G[0].isfinite())


class MixtureRanker(GemiRecRanker):
    """GemiRec with catalogue-wide conditionals, mixed over the interests of highest posterior.

    Every item belongs to all of a user's interests, as in HyMiRec.
    """

    rank_all = ServedRanker.rank_all

    @property
    def held(self) -> int:
        """The interests' lists, before and after they are weighed."""
        return 2 * self.num_interests

    def _joint(self, cells_BG: Tensor, user_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Log P(m, i | u) of the likeliest interests, strongest first [B, K, N], and their cells [B, K]."""
        best = cells_BG.topk(self.num_interests, dim=1)
        lists_BKN = self.head.catalogue_log_probabilities(
            user_BD, self.posterior.cells_GE[best.indices], self.context.items_ND, self.table.recommendable_N
        )
        return best.values.log_softmax(1)[..., None] + lists_BKN, best.indices

    def joint(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor]:
        """As `_joint`, from the events."""
        cells_BG, refined = self._cells(events, users_B, ends_B)
        return self._joint(cells_BG, refined.next_BLD[:, -1])

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log Σ_m P(m | u) P(i | u, m)."""
        return self.joint(events, users_B, ends_B)[0].logsumexp(1)

    def claims(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Claims:
        """All users at once; an item is its strongest interest's."""
        joint_BKN, cells_BK = self.joint(events, users_B, ends_B)
        weights_BG = joint_BKN.new_full((len(joint_BKN), len(self.table.occupied_G)), -torch.inf)
        weights_BG.scatter_(1, cells_BK, joint_BKN.logsumexp(2))
        owners_BN = cells_BK.gather(1, joint_BKN.argmax(1))
        labels = [self.label(cell) for cell in range(weights_BG.shape[1])]
        return Claims(joint_BKN.logsumexp(1), weights_BG, owners_BN, labels)

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """The interests of highest posterior, as many as are shown."""
        cells_1G, refined = self._cells(events, *whole(events))
        return self._interests(cells_1G, refined.next_BLD[:, -1])

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """The lists of the interests of highest posterior, at most those shown."""
        return self.joint(events, users_B, ends_B)[0][:, :num_interests].logsumexp(1)

    def _interests(self, cells_BG: Tensor, user_BD: Tensor) -> tuple[Tensor, list[str]]:
        joint_BKN, cells_BK = self._joint(cells_BG, user_BD)
        return joint_BKN[0], [self.label(int(cell)) for cell in cells_BK[0]]


def gemirec_ranker(
    context: RecommenderRanker,
    posterior: Posterior,
    head: RetrievalHead,
    table: CellTable,
    labels_G: Callable[[int], str],
) -> GemiRecRanker:
    """GemiRec of the head's variant; see `GemiRecRanker`."""
    kind = MixtureRanker if head.config.variant == "mixture" else GemiRecRanker
    return kind(context, posterior, head, table, labels_G)
