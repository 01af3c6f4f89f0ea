"""Interest-conditioned retrieval and its merge (GemiRec, MIRM).

    u_m = normalize(u + MLP([u; e_m])),   P(i | u, m) = softmax of scale · u_m · v_i over the items of cell m only

Every item has exactly one cell, so P(i | u) = P(m_i | u) · P(i | u, m_i) is a proper distribution over the
catalogue: scores of different interests are comparable, and the exact negative log-likelihood is the posterior's loss
plus the in-cell loss. The user vector u is the LLM recommender's "now" interest.

Notable: items are laid out cell by cell in one padded table, so that scoring the catalogue is one batched product,
without a loop over cells or items.

Shapes: B users, P rows, G cells, S items of the largest cell, N items, D item dimension, E cell embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.lightweight_encoder import INITIAL_SCALE, MAX_SCALE
from prismrec.models.module import SavedModule


class CellTable:
    """The catalogue's items, cell by cell.

    Args:
        cells_N: each item's cell.
        recommendable_N: items that take part; the others have probability zero.
        num_cells: G.
    """

    def __init__(self, cells_N: Tensor, recommendable_N: Tensor, num_cells: int) -> None:
        members = torch.nonzero(recommendable_N).flatten()
        members = members[torch.argsort(cells_N[members], stable=True)]
        counts_G = torch.bincount(cells_N[members], minlength=num_cells)
        starts_G = counts_G.cumsum(0) - counts_G
        place_N = torch.arange(len(members)) - starts_G[cells_N[members]]
        width = int(counts_G.max()) if len(members) else 0
        self.items_GS = torch.zeros(num_cells, width, dtype=torch.int64)
        self.items_GS[cells_N[members], place_N] = members
        self.mask_GS = torch.arange(width) < counts_G[:, None]
        self.occupied_G = counts_G > 0
        self.cells_N = cells_N
        self.place_N = torch.zeros(len(cells_N), dtype=torch.int64)
        self.place_N[members] = place_N
        self.recommendable_N = recommendable_N


@dataclass(frozen=True)
class RetrievalHeadConfig:
    """Sizes of the retrieval head, interests to show, and the dictionary version they belong to."""

    dim: int
    cell_dim: int
    hidden: int
    dropout: float
    num_interests: int
    dictionary: str


class RetrievalHead(SavedModule):
    """User vectors conditioned on interests."""

    kind: ClassVar[str] = "retrieval_head"
    config_class: ClassVar[type] = RetrievalHeadConfig
    config: RetrievalHeadConfig

    def __init__(self, config: RetrievalHeadConfig) -> None:
        super().__init__(config)
        self.user_in = nn.Linear(config.dim, config.hidden)
        self.cell_in = nn.Linear(config.cell_dim, config.hidden)
        self.out = nn.Linear(config.hidden, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature that turns cosines into logits."""
        return self.log_scale.exp().clamp_max(MAX_SCALE)

    def forward(self, user_BD: Tensor, cells_GE: Tensor) -> Tensor:
        """Every user's vector for each of G interests: [B, G, D], unit length."""
        hidden_BGH = F.gelu(self.user_in(user_BD)[:, None] + self.cell_in(cells_GE))
        return F.normalize(user_BD[:, None] + self.out(self.dropout(hidden_BGH)), dim=-1)

    def in_cell_loss(
        self, user_PD: Tensor, targets_P: Tensor, cells_GE: Tensor, items_ND: Tensor, table: CellTable
    ) -> Tensor:
        """Mean negative log-likelihood of the target among the items of its own cell."""
        cell_P = table.cells_N[targets_P]
        hidden_PH = F.gelu(self.user_in(user_PD) + self.cell_in(cells_GE[cell_P]))
        vector_PD = F.normalize(user_PD + self.out(self.dropout(hidden_PH)), dim=-1)
        logits_PS = torch.einsum("pd,psd->ps", vector_PD, items_ND[table.items_GS[cell_P]]).float() * self.scale
        logits_PS = logits_PS.masked_fill(~table.mask_GS[cell_P], -torch.inf)
        return F.cross_entropy(logits_PS, table.place_N[targets_P])

    def log_probabilities(self, user_BD: Tensor, cells_GE: Tensor, items_ND: Tensor, table: CellTable) -> Tensor:
        """Log P(i | u, m_i) of every item: [B, N]; -inf for items that take no part."""
        vector_BGD = self.forward(user_BD, cells_GE)
        logits_GBS = torch.bmm(vector_BGD.transpose(0, 1), items_ND[table.items_GS].transpose(1, 2)) * self.scale
        masked = logits_GBS.float().masked_fill(~table.mask_GS[:, None], -torch.inf)
        # Empty cells have no item to read; keep their softmax finite.
        masked = torch.where(table.occupied_G[:, None, None], masked, 0.0)
        log_GBS = masked.log_softmax(-1)
        log_BN = log_GBS[table.cells_N, :, table.place_N].T
        return log_BN.masked_fill(~table.recommendable_N, -torch.inf)
