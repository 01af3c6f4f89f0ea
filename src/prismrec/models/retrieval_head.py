"""Interest-conditioned retrieval and its merge (GemiRec, MIRM).

    u_m = normalize(u + MLP([u; e_m])),   P(i | u, m) = softmax of scale · u_m · v_i over the items of cell m only

Every item has exactly one cell, so P(i | u) = P(m_i | u) · P(i | u, m_i) is a proper distribution over the
catalogue: scores of different interests are comparable, and the exact negative log-likelihood is the posterior's loss
plus the in-cell loss. The user vector u is the LLM recommender's "now" interest.

The variant `mixture` has catalogue-wide conditionals instead: P(i | u, m) = softmax of scale · u_m · v_i over all
items, and P(i | u) = Σ_m P(m | u) P(i | u, m) over the interests shown, their probabilities made to sum to 1. It is a
distribution over the catalogue too. Its training sees interests drawn from the posterior beside the target's own
(`catalogue_loss`), since at serving nobody knows the target's.

Notable: items are laid out cell by cell, cells of about one size in one padded bucket, so that scoring the catalogue is
a handful of batched products without a loop over cells or items, and padding is less than half of them: the largest
cell may be many times the mean.

Shapes: B users, P rows, G cells, O of them with items, g of these in a bucket, S items of the largest cell, s of the
largest in a bucket, N items, n of them in cells, D item dimension, E cell embedding width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.events import EventBatch
from prismrec.models.lightweight_encoder import INITIAL_SCALE, MAX_SCALE
from prismrec.models.module import SavedModule
from prismrec.retrieval.merging import Rule

LEAST_LOG_MASS = -20.0  # of a cell: what one model all but rules out, another may still bring in


class Bucket(NamedTuple):
    """Cells of about one size, the items of which are ranked in one product."""

    cells_g: Tensor  # int64
    items_gs: Tensor  # int64; padding repeats item 0
    mask_gs: Tensor  # True where there is an item
    penalty_g1s: Tensor  # 0, or -inf where padded: adding it costs a tenth of masking


class CellTable:
    """The catalogue's items, cell by cell; empty cells are in no bucket.

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
        items_GS = torch.zeros(num_cells, width, dtype=torch.int64)
        items_GS[cells_N[members], place_N] = members
        mask_GS = torch.arange(width) < counts_G[:, None]
        self.occupied_G = counts_G > 0
        self.cells_N = cells_N
        self.place_N = torch.zeros(len(cells_N), dtype=torch.int64)
        self.place_N[members] = place_N
        self.recommendable_N = recommendable_N
        self.buckets = list(_buckets(counts_G, items_GS, mask_GS))
        self.bucket_G, self.row_G = torch.zeros(2, num_cells, dtype=torch.int64)  # where a cell lies in the buckets
        for number, bucket in enumerate(self.buckets):
            self.bucket_G[bucket.cells_g] = number
            self.row_G[bucket.cells_g] = torch.arange(len(bucket.cells_g))
        self.occupied_O = torch.cat([bucket.cells_g for bucket in self.buckets] or [members])  # in the buckets' order
        self.members_n = torch.cat([bucket.items_gs[bucket.mask_gs] for bucket in self.buckets] or [members])
        self._vectors: tuple[Tensor, list[Tensor]] | None = None

    def vectors(self, items_ND: Tensor) -> list[Tensor]:
        """The items' vectors, bucket by bucket: [g, D, s]; laid out once, for what is asked of the same table again."""
        if self._vectors is None or self._vectors[0] is not items_ND:
            of_buckets = [items_ND[bucket.items_gs].transpose(1, 2).contiguous() for bucket in self.buckets]
            self._vectors = items_ND, of_buckets
        return self._vectors[1]

    def seen(self, history: EventBatch) -> Tensor:
        """Cells that some event of the history has: [B, G] bool."""
        seen_BG = history.items_BL.new_zeros(len(history.items_BL), len(self.occupied_G))
        return seen_BG.scatter_add_(1, self.cells_N[history.items_BL], history.mask_BL.long()) > 0

    def log_mass(self, logits_PN: Tensor) -> Tensor:
        """Log-probability of each cell, where items are drawn by these logits: [P, G], at least LEAST_LOG_MASS."""
        probability_PN = logits_PN.float().masked_fill(~self.recommendable_N, -torch.inf).softmax(1)
        mass_PG = probability_PN.new_zeros(len(logits_PN), len(self.occupied_G))
        return mass_PG.index_add_(1, self.cells_N, probability_PN).log().clamp_min(LEAST_LOG_MASS)


def _buckets(counts_G: Tensor, items_GS: Tensor, mask_GS: Tensor) -> Iterator[Bucket]:
    """Cells by size, as many together as are at most twice as large as the first: so padding is below a half."""
    sizes_O, cells_O = counts_G.sort(stable=True)
    cells_O, sizes = cells_O[sizes_O > 0], sizes_O[sizes_O > 0].tolist()
    start = 0
    while start < len(sizes):
        stop = bisect_right(sizes, 2 * sizes[start])
        cells_g = cells_O[start:stop]
        items_gs, mask_gs = items_GS[cells_g, : sizes[stop - 1]], mask_GS[cells_g, : sizes[stop - 1]]
        penalty_gs = torch.zeros(mask_gs.shape).masked_fill(~mask_gs, -torch.inf)
        yield Bucket(cells_g, items_gs, mask_gs, penalty_gs[:, None])
        start = stop


@dataclass(frozen=True)
class RetrievalHeadConfig:
    """Sizes of the retrieval head, interests to show, and the dictionary version they belong to."""

    dim: int
    cell_dim: int
    hidden: int
    dropout: float
    num_interests: int
    dictionary: str
    variant: Literal["in_cell", "mixture"] = "in_cell"
    final: bool = False  # trained on the validation events too
    basis: str = ""  # digest of what it has learnt from; none in models of releases before
    merge: Rule = "likelihood"  # of the lists of the interests shown


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
        """Every user's vector for each of G interests: [B, G, D], unit length.

        Args:
            cells_GE: embeddings of the interests, or [B, G, E] where every user has interests of their own.
        """
        hidden_BGH = F.gelu(self.user_in(user_BD)[:, None] + self.cell_in(cells_GE))
        return F.normalize(user_BD[:, None] + self.out(self.dropout(hidden_BGH)), dim=-1)

    def catalogue_loss(
        self, user_PD: Tensor, targets_P: Tensor, cells_PE: Tensor, items_ND: Tensor, recommendable_N: Tensor
    ) -> Tensor:
        """Mean negative log-likelihood of the target among all items, each row under one interest.

        Args:
            cells_PE: embedding of the interest that each row is conditioned on.
        """
        log_P1N = self.catalogue_log_probabilities(user_PD, cells_PE[:, None], items_ND, recommendable_N)
        return F.nll_loss(log_P1N[:, 0], targets_P)

    def catalogue_log_probabilities(
        self, user_BD: Tensor, cells_BKE: Tensor, items_ND: Tensor, recommendable_N: Tensor
    ) -> Tensor:
        """Log P(i | u, m) of every item under each of a user's interests: [B, K, N]; -inf where not recommendable."""
        logits_BKN = (self.forward(user_BD, cells_BKE) @ items_ND.T).float() * self.scale
        return logits_BKN.masked_fill(~recommendable_N, -torch.inf).log_softmax(2)

    def in_cell_loss(
        self, user_PD: Tensor, targets_P: Tensor, cells_GE: Tensor, items_ND: Tensor, table: CellTable
    ) -> Tensor:
        """Mean negative log-likelihood of the target among the items of its own cell."""
        cell_P = table.cells_N[targets_P]
        hidden_PH = F.gelu(self.user_in(user_PD) + self.cell_in(cells_GE[cell_P]))
        vector_PD = F.normalize(user_PD + self.out(self.dropout(hidden_PH)), dim=-1)
        bucket_P, row_P = table.bucket_G[cell_P], table.row_G[cell_P]
        total = vector_PD.new_zeros((), dtype=torch.float32)
        for number, bucket in enumerate(table.buckets):
            rows_p = torch.nonzero(bucket_P == number).flatten()
            if len(rows_p):
                own_p = row_P[rows_p]
                logits_ps = torch.einsum("pd,psd->ps", vector_PD[rows_p], items_ND[bucket.items_gs[own_p]])
                logits_ps = logits_ps.float() * self.scale + bucket.penalty_g1s[own_p, 0]
                total = total + F.cross_entropy(logits_ps, table.place_N[targets_P[rows_p]], reduction="sum")
        return total / len(targets_P)

    def log_probabilities(self, user_BD: Tensor, cells_GE: Tensor, items_ND: Tensor, table: CellTable) -> Tensor:
        """Log P(i | u, m_i) of every item: [B, N]; -inf for items that take no part."""
        vector_BOD = self.forward(user_BD, cells_GE[table.occupied_O])
        parts, start = [], 0
        for bucket, vectors_gDs in zip(table.buckets, table.vectors(items_ND), strict=True):
            some = slice(start, start := start + len(bucket.cells_g))
            logits_gBs = torch.bmm(vector_BOD[:, some].transpose(0, 1), vectors_gDs).float() * self.scale
            log_gBs = (logits_gBs + bucket.penalty_g1s).log_softmax(-1)
            parts.append(log_gBs.transpose(1, 2)[bucket.mask_gs])
        log_NB = user_BD.new_full((len(table.cells_N), len(user_BD)), -torch.inf, dtype=torch.float32)
        if parts:
            log_NB[table.members_n] = torch.cat(parts)
        return log_NB.T.contiguous()
