"""One model for both papers: HyMiRec and GemiRec on one forward pass, merged on one scale (our choice).

    score(i | u) = w_h · hymirec(i | u) + w_g · log P(i | u),    P(i | u) = P(m_i | u) P(i | u, m_i) of GemiRec

The LLM recommender's states are the user context of both, so the second costs no second pass of the decoder. The two
weights are fitted on validation events like those of HyMiRec's own merge.

Its interests are the dictionary's: every item lies in exactly one cell, so the pooled distribution over items is a
distribution over cells too, which have names and keep their ids from version to version. What the service's knobs do
to GemiRec's posterior they do here to the pooled one.

Shapes: B users, K interests, N items, G cells, D item dimension.
"""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor

from prismrec.models.events import EventTable
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.merge import Merge, MergedRanker, Pool
from prismrec.models.posterior import Knobs
from prismrec.models.rankers import (
    GEMIREC,
    HYMIREC,
    PRISMREC,
    Claims,
    InterestRanking,
    Ranker,
    ServedRanker,
    one_history,
    ranking_by_cells,
    whole,
)


class UnifiedRanker(ServedRanker):
    """HyMiRec's and GemiRec's scores pooled, told apart by the dictionary's cells.

    Args:
        hymirec: HyMiRec ready to rank.
        gemirec: GemiRec ready to rank, on the same recommender; its dictionary gives the interests.
        merge: the weights of the two.
    """

    name = PRISMREC
    reads_time = True

    def __init__(self, hymirec: MergedRanker, gemirec: GemiRecRanker, merge: Merge) -> None:
        self.pool: Ranker = Pool(PRISMREC, {HYMIREC: hymirec, GEMIREC: gemirec}, merge)
        self.gemirec, self.table, self.label = gemirec, gemirec.table, gemirec.label
        self.dictionary, self.num_interests, self.knobs = gemirec.dictionary, gemirec.num_interests, Knobs()

    @property
    def held(self) -> int:
        """As the pool holds, and the cells' masses."""
        return self.pool.held + 1

    def with_knobs(self, knobs: Knobs) -> Self:
        """The same ranker for a request that turns them; the parts are shared."""
        turned = copy.copy(self)
        turned.knobs = knobs
        return turned

    def _cells_and_scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log P(m | u) of all cells [B, G], and log P(i | u) [B, N]; -inf where not recommendable."""
        scores_BN = self.pool.scores(events, users_B, ends_B).masked_fill(~self.table.recommendable_N, -torch.inf)
        scores_BN = scores_BN.log_softmax(1)
        log_BG = self.table.log_mass(scores_BN).masked_fill(~self.table.occupied_G, -torch.inf)
        if self.knobs == Knobs():
            return log_BG, scores_BN
        seen_BG = self.table.seen(events.cut(users_B, torch.zeros_like(ends_B), ends_B))
        turned_BG = self.knobs.turn(log_BG, seen_BG)
        moved_BG = torch.where(self.table.occupied_G, turned_BG - log_BG, 0.0)
        return turned_BG, scores_BN + moved_BG[:, self.table.cells_N]

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Log P(i | u), as the knobs turn it."""
        return self._cells_and_scores(events, users_B, ends_B)[1]

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Scores of the items of the cells of most mass."""
        cells_BG, scores_BN = self._cells_and_scores(events, users_B, ends_B)
        best_BK = cells_BG.topk(min(num_interests, cells_BG.shape[1]), dim=1).indices
        kept_BG = torch.zeros_like(cells_BG, dtype=torch.bool).scatter(1, best_BK, value=True)
        return scores_BN.masked_fill(~kept_BG[:, self.table.cells_N], -torch.inf)

    def claims(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Claims:
        """All users at once; an item is its own cell's."""
        cells_BG, scores_BN = self._cells_and_scores(events, users_B, ends_B)
        owners_BN = self.table.cells_N.expand(len(cells_BG), -1)
        return Claims(scores_BN, cells_BG, owners_BN, [self.label(cell) for cell in range(cells_BG.shape[1])])

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K, D] unit vectors: mean item vectors of the cells of most mass, as many as are shown."""
        cells_BG, _ = self._cells_and_scores(events, users_B, ends_B)
        return self.gemirec.centres_GD[cells_BG.topk(self.num_interests, dim=1).indices]

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """Every non-empty cell is an interest; an item belongs to its own cell only."""
        scores_N = self._cells_and_scores(events, *whole(events))[1][0]
        cells = torch.nonzero(self.table.occupied_G).flatten()
        own_KN = self.table.cells_N == cells[:, None]
        return scores_N.where(own_KN, -torch.inf), [self.label(int(cell)) for cell in cells]

    @torch.inference_mode()
    def rank(
        self, items: np.ndarray, timestamps: np.ndarray | None, num_interests: int | None, now: int | None = None
    ) -> InterestRanking:
        """As everywhere, without a table of cells × items."""
        events = one_history(items, timestamps, now)
        scores_N = self.scores(events, *whole(events))[0]
        shown = self.shown_interests() if num_interests is None else num_interests
        return ranking_by_cells(scores_N, self.table.cells_N, self.label, shown, num_interests is not None)

    def shown_interests(self) -> int | None:
        """As many as GemiRec shows."""
        return self.gemirec.shown_interests()
