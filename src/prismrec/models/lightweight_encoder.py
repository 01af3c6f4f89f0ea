"""Lightweight encoder: a long history in, K_c coarse interests out, at linear cost (HyMiRec, part 3).

Two blocks, our choice where the paper is silent:
1. *events*: every event's item vector gets a time-gap feature, a short causal convolution (the last few events,
   where local transitions live) and a feed-forward layer;
2. *interests*: K_c learned queries attend over all events so far. Each query learns its own decay per event of
   age, so that one query can watch the last few clicks and another the whole history.

Notable:
- The queries are the same for everybody, so an event's attention logit depends on the event alone and the decay
  on its age: the interests after *any* event follow from one matrix of logits. Training reads many prefixes of a
  crop at once (`after`), serving only the last (`forward`, linear in the length).
- An interest starts as the decayed mean of item vectors: before any training the encoder already is a rank-D
  decayed Markov model, because item vectors start from the transition matrix (`item_tower.py`).
- Outputs are unit vectors in the item space.

Shapes: B users, L events, Q prefixes, K coarse interests, D item dimension, H hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.events import NUM_GAP_BUCKETS
from prismrec.models.module import SavedModule

INITIAL_SCALE = 1.0 / 0.07  # inverse temperature, learned from here
MAX_SCALE = 100.0


@dataclass(frozen=True)
class LightweightEncoderConfig:
    """Sizes of the lightweight encoder; `length` is how many events it reads when it is used."""

    dim: int
    num_interests: int
    hidden: int
    kernel: int
    dropout: float
    length: int


class LightweightEncoder(SavedModule):
    """K_c coarse interests of a long history."""

    kind: ClassVar[str] = "lightweight_encoder"
    config_class: ClassVar[type] = LightweightEncoderConfig
    config: LightweightEncoderConfig

    def __init__(self, config: LightweightEncoderConfig) -> None:
        super().__init__(config)
        dim, hidden, queries = config.dim, config.hidden, config.num_interests
        self.gap = nn.Embedding(NUM_GAP_BUCKETS, dim)
        self.convolution = nn.Conv1d(dim, hidden, config.kernel)
        self.event_norm = nn.LayerNorm(dim)
        self.event_out = nn.Linear(hidden, dim)
        self.key = nn.Linear(dim, queries)
        self.value_norm = nn.LayerNorm(dim)
        self.value = nn.Linear(dim, dim)
        # Half-lives from one event to about a hundred: exp(-exp(rate)) per event of age.
        self.log_decay = nn.Parameter(torch.linspace(-0.7, -4.5, queries))
        self.interest_norm = nn.LayerNorm(dim)
        self.interest_in = nn.Linear(dim, hidden)
        self.interest_out = nn.Parameter(torch.zeros(queries, hidden, dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.dropout = nn.Dropout(config.dropout)
        for module in (self.gap, self.event_out, self.value, self.key):
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.value.bias)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature that turns cosines into logits."""
        return self.log_scale.exp().clamp_max(MAX_SCALE)

    def _events(self, items_BLD: Tensor, gaps_BL: Tensor, mask_BL: Tensor) -> Tensor:
        event_BLD = (items_BLD + self.gap(gaps_BL)) * mask_BL[..., None]
        normed_BLD = self.event_norm(event_BLD) * mask_BL[..., None]  # the norm's bias is no event
        window = F.pad(normed_BLD.transpose(1, 2), (self.config.kernel - 1, 0))
        local_BLH = F.gelu(self.convolution(window).transpose(1, 2))
        mixed_BLD: Tensor = event_BLD + self.event_out(self.dropout(local_BLH))
        return mixed_BLD

    def _refine(self, pooled_BQKD: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.interest_in(self.interest_norm(pooled_BQKD))))
        return F.normalize(pooled_BQKD + torch.einsum("bqkh,khd->bqkd", hidden, self.interest_out), dim=-1)

    def after(self, items_BLD: Tensor, gaps_BL: Tensor, mask_BL: Tensor, columns_BQ: Tensor) -> Tensor:
        """Coarse interests after Q of the events: [B, Q, K, D], unit length. Cost grows with Q · L.

        Args:
            items_BLD: item vectors, old to new, padded on the left.
            gaps_BL: time-gap buckets of the events.
            mask_BL: True where there is an event.
            columns_BQ: the last column each result may see.
        """
        event_BLD = self._events(items_BLD, gaps_BL, mask_BL)
        logits_BKL = self.key(event_BLD).transpose(1, 2)
        values_BLD = items_BLD + self.value(self.value_norm(event_BLD))
        age_BQL = columns_BQ[..., None] - torch.arange(items_BLD.shape[1], device=items_BLD.device)
        visible_BQL = (age_BQL >= 0) & mask_BL[:, None]
        score_BQKL = logits_BKL[:, None] - self.log_decay.exp()[:, None] * age_BQL[:, :, None]
        weight_BQKL = score_BQKL.masked_fill(~visible_BQL[:, :, None], -1e4).softmax(-1)
        pooled = weight_BQKL.flatten(1, 2) @ values_BLD
        return self._refine(pooled.unflatten(1, weight_BQKL.shape[1:3]))

    def forward(self, items_BLD: Tensor, gaps_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Coarse interests of the whole history: [B, K, D], unit length. Cost grows linearly with L."""
        last_B1 = torch.full((len(items_BLD), 1), items_BLD.shape[1] - 1, device=items_BLD.device)
        return self.after(items_BLD, gaps_BL, mask_BL, last_B1)[:, 0]

    def interest_scores(self, interests_BKD: Tensor, items_ND: Tensor) -> Tensor:
        """Score of every item under every coarse interest: [B, K, N]; merged by log-sum-exp."""
        return self.scale * interests_BKD @ items_ND.T
