"""One model for both papers: HyMiRec and GemiRec on one forward pass, merged on one scale (our choice).

    score(i | u) = Σ_m w_m · member_m(i | u) + w_g · log P(i | u),    P(i | u) = P(m_i | u) P(i | u, m_i) of GemiRec

GemiRec is one more member of HyMiRec's pool, and all weights are fitted at once, on validation events like those of
HyMiRec's own merge. The LLM recommender's states are the user context of both, so GemiRec costs no second pass of the
decoder.

Its interests are the dictionary's: every item lies in exactly one cell, so the pooled distribution over items is a
distribution over cells too, which have names and keep their ids from version to version. What the service's knobs do
to GemiRec's posterior they do here to the pooled one.

Shapes: B users, K interests, N items, G cells, D item dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prismrec.models.cells import CellRanker
from prismrec.models.events import EventTable
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.interest_dictionary import check_version
from prismrec.models.merge import Merge, MergedRanker, Pool
from prismrec.models.posterior import Knobs
from prismrec.models.rankers import GEMIREC, HYMIREC, PRISMREC, Ranker


class UnifiedRanker(CellRanker):
    """The scores of HyMiRec's members and of GemiRec pooled, told apart by the dictionary's cells.

    Args:
        hymirec: HyMiRec ready to rank.
        gemirec: GemiRec ready to rank; its dictionary gives the interests. Where both rest on one recommender that
            remembers its states (`remembering.py`), its decoder runs once.
        merge: the weights of HyMiRec's members and of GemiRec; or, as releases before fitted them, of the two.

    Raises:
        LineageError: the weights were fitted on the cells of another dictionary.
    """

    name = PRISMREC

    def __init__(self, hymirec: MergedRanker, gemirec: GemiRecRanker, merge: Merge) -> None:
        head = gemirec.head.config
        if merge.config.dictionary:  # none while they are fitted, and in weights of releases before
            check_version("weights of the unified model", merge.config.dictionary, head.dictionary, "unified_merge")
        super().__init__(gemirec.table, gemirec.context.items_ND, gemirec.label, head.dictionary, head.num_interests)
        others = {HYMIREC: hymirec} if HYMIREC in merge.config.members else hymirec.pool.members
        self.pool: Ranker = Pool(PRISMREC, {**others, GEMIREC: gemirec}, merge)

    @property
    def held(self) -> int:
        """As the pool holds, and the cells' masses."""
        return self.pool.held + 1

    def cells_and_scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor]:
        """Masses of the cells, and the pool's scores as log-probabilities."""
        scores_BN = self.pool.scores(events, users_B, ends_B).masked_fill(~self.table.recommendable_N, -torch.inf)
        scores_BN = scores_BN.log_softmax(1)
        log_BG = self.table.log_mass(scores_BN).masked_fill(~self.table.occupied_G, -torch.inf)
        if self.knobs == Knobs():
            return log_BG, scores_BN
        seen_BG = self.table.seen(events.cut(users_B, torch.zeros_like(ends_B), ends_B))
        turned_BG = self.knobs.turn(log_BG, seen_BG)
        moved_BG = torch.where(self.table.occupied_G, turned_BG - log_BG, 0.0)
        return turned_BG, scores_BN + moved_BG[:, self.table.cells_N]
