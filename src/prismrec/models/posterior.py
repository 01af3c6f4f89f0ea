"""Posterior over the user's next dictionary interest (GemiRec, MIPDM).

A causal decoder reads the recent events; at every position it gives P(m | u) over the cells of the dictionary,
factorised over the levels, P(m|u) = ∏_c P(m_c | m_<c, u). A dictionary of up to `max_cells` cells is scored jointly
and exactly; in a larger one a beam of prefixes finds the likely cells (`beam`), and the occupied ones that it does not
find share the rest of the probability equally (our choice: a cell with items is never impossible, so that a pool of
models may weigh log P(m | u) by any factor).

With `prior`, the decoder only corrects what the recommender itself says: its next-item distribution, summed by cell
(`CellTable.log_mass`), joins every level's logits with a learned weight, and the decoder's outputs start at zero. So
training starts at the recommender's own posterior (our choice: without it the decoder had to learn again what the
recommender knows, and found fewer new interests than a single vector's list).

An event enters as the sum of projections of its item vector, its cell's embedding, its time gap, and the LLM
recommender's prediction at that position: the recommender's states are the user context of GemiRec too (our choice).

Notable: cells that hold no item have probability zero, by masking each level's softmax, so that the probabilities of
the non-empty cells sum to 1.

Shapes: B users, L events, P rows, T cells asked for, W width of the beam, G cells, M codes of a level, H hidden,
D item dimension.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from prismrec.artifacts.model_folder import read_config, read_tensors, write_model
from prismrec.models import backbone
from prismrec.models.events import NUM_GAP_BUCKETS, EventBatch

LEAST_REST = 1e-6  # probability of all cells that a beam does not find, at least: rounding may leave none


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
    max_cells: int = 10_000  # largest dictionary scored exactly
    beam: int = 256  # prefixes kept a level in a larger one
    prior: bool = False  # start from the recommender's distribution over cells
    temperature: float = 1.0  # what all logits are divided by, fitted on validation events after training
    final: bool = False  # trained on the validation events too
    basis: str = ""  # digest of what it has learnt from; none in models of releases before


@dataclass(frozen=True)
class Knobs:
    """What a request may turn: P'(m | u) ∝ exp(log P(m | u) / temperature + novelty · [m is not in the history]).

    Attributes:
        temperature: above 1 spreads the interests, below 1 sharpens them.
        novelty: in nats; above 0 favours interests that no event of the history has.
    """

    temperature: float = 1.0
    novelty: float = 0.0

    def __post_init__(self) -> None:
        assert self.temperature > 0, f"a temperature is above 0, not {self.temperature}"

    def turn(self, log_BG: Tensor, seen_BG: Tensor) -> Tensor:
        """The posterior as the request wants it: [B, G], still a distribution.

        Args:
            log_BG: log P(m | u).
            seen_BG: bool, cells of the history.
        """
        return (log_BG / self.temperature + self.novelty * ~seen_BG).log_softmax(1)


class Beam(NamedTuple):
    """Likely cells, best first."""

    cells_PW: Tensor  # int64
    log_PW: Tensor  # log P(m | u)


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
        if config.prior:
            self.prior_weight = nn.Parameter(torch.ones(len(config.sizes)))
            for parameter in self.level_out.parameters():
                nn.init.zeros_(parameter)

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

    @property
    def exact(self) -> bool:
        """Whether all cells are scored, not a beam's."""
        return len(self.occupied_G) <= self.config.max_cells

    def log_probabilities(self, states_PH: Tensor, prior_PG: Tensor | None) -> Tensor:
        """Log P(m | u) of all cells: [P, G]; finite for the occupied cells, which sum to 1, and -inf for the others.

        Occupied cells that a beam did not find have equal shares of what those it found leave.

        Args:
            prior_PG: log of the recommender's probability of each cell, finite; None without `prior`.
        """
        if self.exact:
            return self.all_cells(states_PH, prior_PG)
        found = self.beam(states_PH, prior_PG, self.config.beam)
        lost_PG = self.occupied_G.repeat(len(states_PH), 1).scatter_(1, found.cells_PW, value=False)
        rest_P1 = (1.0 - found.log_PW.exp().sum(1, keepdim=True)).clamp_min(LEAST_REST)
        share_P1 = (rest_P1 / lost_PG.sum(1, keepdim=True).clamp_min(1)).log()
        log_PG = share_P1.where(lost_PG, -torch.inf)
        return log_PG.scatter_(1, found.cells_PW, found.log_PW)

    def all_cells(self, states_PH: Tensor, prior_PG: Tensor | None) -> Tensor:
        """Exact log P(m | u) of all cells: [P, G]."""
        joint_PG = states_PH.new_zeros(len(states_PH), 1, dtype=torch.float32)
        prefix_GH = states_PH.new_zeros(1, self.config.hidden)  # one row a prefix of codes
        for level, size in enumerate(self.config.sizes):
            every_1G = torch.arange(len(prefix_GH), device=states_PH.device)[None]
            conditional_PGM = self._conditional(level, states_PH, prefix_GH, every_1G, prior_PG)
            joint_PG = (joint_PG[..., None] + conditional_PGM).flatten(1)
            if level + 1 < len(self.config.sizes):
                every_M = torch.arange(size, device=states_PH.device)
                prefix_GH = (prefix_GH[:, None] + self.chosen[level](every_M)).view(len(prefix_GH) * size, -1)
        return joint_PG

    def beam(self, states_PH: Tensor, prior_PG: Tensor | None, width: int) -> Beam:
        """The likely cells: at every level the `width` likeliest prefixes stay; exact where none is dropped."""
        cells_PW = torch.zeros(len(states_PH), 1, dtype=torch.int64, device=states_PH.device)
        log_PW = states_PH.new_zeros(len(states_PH), 1, dtype=torch.float32)
        prefix_PWH = states_PH.new_zeros(len(states_PH), 1, self.config.hidden)
        for level, size in enumerate(self.config.sizes):
            conditional_PWM = self._conditional(level, states_PH, prefix_PWH, cells_PW, prior_PG)
            log_PC = (log_PW[..., None] + conditional_PWM).flatten(1)
            best = log_PC.topk(min(width, log_PC.shape[1]), dim=1)
            log_PW, from_PW, code_PW = best.values, best.indices // size, best.indices % size
            cells_PW = cells_PW.gather(1, from_PW) * size + code_PW
            if level + 1 < len(self.config.sizes):
                from_PWH = from_PW[..., None].expand(-1, -1, self.config.hidden)
                prefix_PWH = prefix_PWH.gather(1, from_PWH) + self.chosen[level](code_PW)
        return Beam(cells_PW, log_PW)

    def log_probabilities_of(self, states_PH: Tensor, prior_PG: Tensor | None, cells_PT: Tensor) -> Tensor:
        """Exact log P(m | u) of some occupied cells, in any dictionary: [P, T]."""
        prefixes = math.prod(self.config.sizes[:-1])
        if self.exact and cells_PT.shape[1] >= prefixes:  # all cells cost no more than so many paths
            return self.all_cells(states_PH, prior_PG).gather(1, cells_PT)
        log_PT = states_PH.new_zeros(cells_PT.shape, dtype=torch.float32)
        prefix_PTH = states_PH.new_zeros(*cells_PT.shape, self.config.hidden)
        at_PT, below = torch.zeros_like(cells_PT), len(self.occupied_G)
        for level, size in enumerate(self.config.sizes):
            below //= size
            code_PT = cells_PT // below % size
            conditional_PTM = self._conditional(level, states_PH, prefix_PTH, at_PT, prior_PG)
            log_PT = log_PT + conditional_PTM.gather(2, code_PT[..., None])[..., 0]
            at_PT = at_PT * size + code_PT
            if level + 1 < len(self.config.sizes):
                prefix_PTH = prefix_PTH + self.chosen[level](code_PT)
        return log_PT

    def _conditional(
        self, level: int, states_PH: Tensor, chosen: Tensor, prefixes: Tensor, prior_PG: Tensor | None
    ) -> Tensor:
        """Log P(code | prefix, u) of each row's W prefixes: [P, W, M].

        Args:
            chosen: sum of the vectors of the codes chosen so far, of each prefix, [W, H] or [P, W, H].
            prefixes: their numbers, [1, W] or [P, W].
        """
        size = self.config.sizes[level]
        below = math.prod(self.config.sizes[level + 1 :])
        hidden = nn.functional.gelu(self.level_in[level](states_PH)[:, None] + chosen)
        logits = self.level_out[level](hidden).float()
        if prior_PG is not None:
            mass_PQM = prior_PG.view(len(prior_PG), -1, size, below).logsumexp(3)  # Q: all prefixes of the level
            rows_P1 = torch.arange(len(prior_PG), device=prior_PG.device)[:, None]
            logits = logits + self.prior_weight[level] * mass_PQM[rows_P1, prefixes]
        leads = self.occupied_G.view(-1, size, below).any(-1)
        leads = leads | ~leads.any(1, keepdim=True)  # an empty prefix is -inf already; keep its softmax finite
        cooled: Tensor = logits / self.config.temperature
        return cooled.masked_fill(~leads[prefixes], -torch.inf).log_softmax(-1)

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
