"""Rankers whose interests are the dictionary's cells.

Every item lies in exactly one cell, so a distribution over items is one over cells too,

    P(m | u) = Σ_{i in m} P(i | u),

an interest's list is its cell's items in their order, and no table of cells × items is needed.

Shapes: B users, K interests, N items, G cells, D item dimension.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.models.events import EventTable
from prismrec.models.posterior import Knobs
from prismrec.models.rankers import Claims, InterestRanking, ServedRanker, everybody, whole
from prismrec.models.remembering import forgetting
from prismrec.models.retrieval_head import CellTable


class CellRanker(ServedRanker):
    """A ranker told apart by cells.

    Args:
        table: the catalogue's items, cell by cell.
        items_ND: item vectors, of which a cell's centre is the mean.
        label: readable id of a cell.
        dictionary: version of the dictionary.
        shown: interests that are shown unless a request says otherwise.
    """

    reads_time = True

    def __init__(
        self, table: CellTable, items_ND: Tensor, label: Callable[[int], str], dictionary: str, shown: int
    ) -> None:
        self.table, self.label, self.dictionary, self.shown = table, label, dictionary, shown
        self.items_ND = items_ND
        self.knobs = Knobs()
        self.num_interests = min(shown, int(table.occupied_G.sum()))
        self.centres_GD = _cell_centres(items_ND, table)

    @abstractmethod
    def cells_and_scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log P(m | u) of all cells [B, G] and log P(i | u) [B, N], as the knobs turn them; -inf: impossible."""

    def with_knobs(self, knobs: Knobs) -> Self:
        """The same ranker for a request that turns them; the parts are shared."""
        turned = forgetting(self)
        turned.knobs = knobs
        return turned

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log P(i | u)."""
        return self.cells_and_scores(events, users_B, ends_B)[1]

    def cells(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log P(m | u) of every cell: [B, G]."""
        return self.cells_and_scores(events, users_B, ends_B)[0]

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Scores of the items of the likeliest cells."""
        cells_BG, scores_BN = self.cells_and_scores(events, users_B, ends_B)
        best_BK = cells_BG.topk(min(num_interests, cells_BG.shape[1]), dim=1).indices
        kept_BG = torch.zeros_like(cells_BG, dtype=torch.bool).scatter(1, best_BK, value=True)
        return scores_BN.masked_fill(~kept_BG[:, self.table.cells_N], -torch.inf)

    def claims(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Claims:
        """All users at once; an item is its own cell's."""
        cells_BG, scores_BN = self.cells_and_scores(events, users_B, ends_B)
        owners_BN = self.table.cells_N.expand(len(cells_BG), -1)
        return Claims(scores_BN, cells_BG, owners_BN, [self.label(cell) for cell in range(cells_BG.shape[1])])

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K, D] unit vectors: mean item vectors of the likeliest cells, as many as are shown."""
        best_BK = self.cells(events, users_B, ends_B).topk(self.num_interests, dim=1).indices
        return self.centres_GD[best_BK]

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """Every non-empty cell is an interest; an item belongs to its own cell only."""
        return self.by_cell(self.scores(events, *whole(events))[0])

    def by_cell(self, scores_N: Tensor, of_G: Tensor | None = None) -> tuple[Tensor, list[str]]:
        """Scores of all items as a list a cell, [K, N], and the ids of the K non-empty cells.

        Args:
            of_G: bool, cells to tell of; of all by default.
        """
        occupied_G = self.table.occupied_G
        cells = torch.nonzero(occupied_G if of_G is None else occupied_G & of_G).flatten()
        own_KN = self.table.cells_N == cells[:, None]
        return scores_N.where(own_KN, -torch.inf), [self.label(int(cell)) for cell in cells]

    @torch.inference_mode()
    def rank_all(self, events: EventTable, num_interests_B: Sequence[int | None]) -> list[InterestRanking]:
        """All users at once, without a table of cells × items."""
        scores_BN = self.scores(events, *everybody(events))
        return [self._ranked_by_cell(*one) for one in zip(scores_BN, num_interests_B, strict=True)]

    def _ranked_by_cell(self, scores_N: Tensor, num_interests: int | None) -> InterestRanking:
        top = scores_N.max()
        mass_G = torch.zeros(len(self.table.occupied_G), dtype=torch.float64)
        mass_G.index_add_(0, self.table.cells_N, (scores_N - top).exp().double())
        some = torch.nonzero(mass_G).flatten()
        best = torch.argsort(mass_G[some], descending=True, stable=True)
        kept = some[best][: self.shown if num_interests is None else num_interests]
        log_K = mass_G[kept].log() + top
        own_KN = self.table.cells_N == kept[:, None]
        merged_N = scores_N if num_interests is None else scores_N.where(own_KN.any(0), -torch.inf)
        return InterestRanking(
            merged_N.log_softmax(0).numpy(),
            (scores_N - log_K[:, None]).where(own_KN, -torch.inf).float().numpy(),
            log_K.softmax(0).float().numpy(),
            [self.label(cell) for cell in kept.tolist()],
        )

    def shown_interests(self) -> int | None:
        """The number that was set."""
        return self.shown


def _cell_centres(items_ND: Tensor, table: CellTable) -> Tensor:
    """[G, D] unit mean of the vectors of every cell's recommendable items; zero for an empty cell."""
    counted = table.recommendable_N
    sums_GD = torch.zeros(len(table.occupied_G), items_ND.shape[1], dtype=torch.float64)
    sums_GD.index_add_(0, table.cells_N[counted], items_ND[counted].double())
    return F.normalize(sums_GD, dim=1).float()
