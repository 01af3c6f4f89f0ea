"""Posterior over the user's next dictionary interest (GemiRec, MIPDM).

A causal decoder reads the recent events; at every position it gives P(m | u) over the cells of the dictionary,
factorised over the levels, P(m|u) = ∏_c P(m_c | m_<c, u), and scored jointly and exactly over all cells.

An event enters as the sum of projections of its item vector, its cell's embedding, its time gap, and the LLM
recommender's prediction at that position: the recommender's states are the user context of GemiRec too (our choice).

Notable: cells that hold no item have probability zero, by masking each level's softmax, so that the probabilities of
the non-empty cells sum to 1.

Shapes: B users, L events, P rows, G cells, M codes of a level, H hidden, D item dimension.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prismrec.artifacts.model_folder import read_config, read_tensors, write_model
from prismrec.models import backbone
from prismrec.models.events import NUM_GAP_BUCKETS, EventBatch


@dataclass(frozen=True)
class PosteriorConfig:
    """Sizes of the posterior; `dictionary` is the version its cells belong to."""

    dim: int
    cell_dim: int
    sizes: tuple[int, ...]
    hidden: int
    layers: int
    heads: int
    dropout: float
    dictionary: str


class Posterior(nn.Module):
    """Distribution over the cells of one dictionary version, after every recent event.

    Args:
        cells_GE: embeddings of all cells, frozen.
        occupied_G: which cells hold items; the others are impossible.
    """

    kind: ClassVar[str] = "posterior"
    cells_GE: Tensor
    occupied_G: Tensor

    def __init__(self, config: PosteriorConfig, cells_GE: Tensor, occupied_G: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cells_GE", cells_GE)
        self.register_buffer("occupied_G", occupied_G)
        hidden = config.hidden
        self.item_in = nn.Linear(config.dim, hidden)
        self.context_in = nn.Linear(config.dim, hidden)
        self.cell_in = nn.Linear(config.cell_dim, hidden)
        self.gap = nn.Embedding(NUM_GAP_BUCKETS, hidden)
        self.until = nn.Embedding(NUM_GAP_BUCKETS, hidden)
        self.input_norm = nn.LayerNorm(hidden)
        self.backbone = backbone.from_config(
            backbone.scratch_config(hidden, config.layers, config.heads, config.dropout, 4096)
        )
        self.dropout = nn.Dropout(config.dropout)
        # One vector a code tells the next level which code the earlier levels chose.
        self.chosen = nn.ModuleList(nn.Embedding(size, hidden) for size in config.sizes[:-1])
        self.level_in = nn.ModuleList(nn.Linear(hidden, hidden) for _ in config.sizes)
        self.level_out = nn.ModuleList(nn.Linear(hidden, size) for size in config.sizes)

    def forward(self, recent: EventBatch, context_BLD: Tensor, items_ND: Tensor, cells_N: Tensor) -> Tensor:
        """States after every recent event: [B, L, H].

        Args:
            context_BLD: the recommender's next-item prediction at every recent position.
            items_ND: item vectors.
            cells_N: each item's cell.
        """
        events = (
            self.item_in(items_ND[recent.items_BL])
            + self.context_in(context_BLD)
            + self.cell_in(self.cells_GE[cells_N[recent.items_BL]])
            + self.gap(recent.gaps_BL)
            + self.until(recent.until_BL)
        )
        return backbone.run(self.backbone, self.dropout(self.input_norm(events)), recent.mask_BL)

    def log_probabilities(self, states_PH: Tensor) -> Tensor:
        """Log P(m | u) of all cells, exactly: [P, G]; -inf for cells without items."""
        rows = len(states_PH)
        joint_PG = states_PH.new_zeros(rows, 1, dtype=torch.float32)
        prefix_GH = states_PH.new_zeros(1, self.config.hidden)  # one row a prefix of codes
        for level, size in enumerate(self.config.sizes):
            prefixes = len(prefix_GH)
            hidden = nn.functional.gelu(self.level_in[level](states_PH)[:, None] + prefix_GH)
            below = self.occupied_G.view(prefixes, size, -1).any(-1)
            below = below | ~below.any(1, keepdim=True)  # an empty prefix is -inf already; keep its softmax finite
            logits = self.level_out[level](hidden).float().masked_fill(~below, -torch.inf)
            joint_PG = (joint_PG[..., None] + logits.log_softmax(-1)).view(rows, prefixes * size)
            if level + 1 < len(self.config.sizes):
                prefix_GH = (prefix_GH[:, None] + self.chosen[level](torch.arange(size))).view(prefixes * size, -1)
        return joint_PG

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        write_model(folder, self.kind, asdict(self.config), self.state_dict())

    @classmethod
    def load(cls, folder: Path) -> Posterior:
        """Read a folder that `save` wrote.

        Raises:
            MissingArtefact: the folder is not a model folder, or is damaged.
        """
        config: dict[str, Any] = read_config(folder)
        assert config.pop("kind") == cls.kind
        tensors = read_tensors(folder)
        config["sizes"] = tuple(config["sizes"])
        assert len(tensors["occupied_G"]) == math.prod(config["sizes"])
        model = cls(PosteriorConfig(**config), tensors["cells_GE"], tensors["occupied_G"])
        model.load_state_dict(tensors)
        return model.eval()
