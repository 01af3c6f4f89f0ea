"""GemiRec ready to rank: posterior over dictionary interests times retrieval inside each of them.

    log P(i | u) = log P(m_i | u) + log P(i | u, m_i)

An interest is a cell of the dictionary, of which an item has exactly one. Both parts rest on the LLM recommender's
states, the user context (our choice).

Shapes: B users, K interests, N items, G cells, D item dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.errors import UserError
from prismrec.models.events import EventTable
from prismrec.models.posterior import Posterior
from prismrec.models.rankers import GEMIREC, RecommenderRanker, ServedRanker, whole
from prismrec.models.recommender import Refined
from prismrec.models.retrieval_head import CellTable, RetrievalHead


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
        cells_BG, items_BN = self._parts(events, *whole(events))
        cells = torch.nonzero(self.table.occupied_G).flatten()
        joint_N = (cells_BG[:, self.table.cells_N] + items_BN)[0]
        own_KN = self.table.cells_N == cells[:, None]
        return joint_N.where(own_KN, -torch.inf), [self.label(int(cell)) for cell in cells]

    def shown_interests(self) -> int | None:
        """The number set when the head was trained."""
        return self.head.config.num_interests


def _cell_centres(items_ND: Tensor, table: CellTable) -> Tensor:
    """[G, D] unit mean of the vectors of every cell's recommendable items; zero for an empty cell."""
    counted = table.recommendable_N
    sums_GD = torch.zeros(len(table.occupied_G), items_ND.shape[1], dtype=torch.float64)
    sums_GD.index_add_(0, table.cells_N[counted], items_ND[counted].double())
    return F.normalize(sums_GD, dim=1).float()
