"""Lightweight encoder: a long history in, K_c coarse interests out, at linear cost (HyMiRec, part 3).

Two blocks, our choice where the paper is silent:
1. *events*: every event's item vector gets a time-gap feature, a short causal convolution (the last few events,
   where local transitions live) and a feed-forward layer;
2. *interests*: K_c learned queries attend over all events so far. Each query learns its own decay per event of
   age, so that one query can watch the last few clicks and another the whole history. `positions` > 0 pools as
   ComiRec-SA does instead: A = softmax over events of W2 tanh(W1 (H + P)), V = A H, hidden width 4 D.

Notable:
- The queries are the same for everybody, so an event's attention logit depends on the event alone (with ComiRec's
  pooling: and its place) and the decay on its age: the interests after *any* event follow from one matrix of logits.
  Training reads many prefixes of a crop at once (`after`), serving only the last (`forward`, linear in the length).
- By decay, an interest starts as the decayed mean of item vectors: before any training the encoder already is a rank-D
  decayed Markov model, because item vectors start from the transition matrix (`item_tower.py`).
- A result knows when it is asked for, by the time until the next event or the request: what comes next in a session
  is another thing than what opens the next one. It moves the decay, and the interests.
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

from prismrec.models.comirec import pool_prefixes
from prismrec.models.events import NUM_GAP_BUCKETS, EventBatch
from prismrec.models.item_table import START_NOISE
from prismrec.models.module import SavedModule

INITIAL_SCALE = 1.0 / 0.07  # inverse temperature, learned from here
MAX_SCALE = 100.0


@dataclass(frozen=True)
class LightweightEncoderConfig:
    """Sizes of the lightweight encoder; `length` is how many events it reads when it is used.

    `positions` is 0 for pooling by decay, else the places that ComiRec's self-attention tells apart, counted from the
    first event read; later events share the last one.
    """

    dim: int
    num_interests: int
    hidden: int
    kernel: int
    dropout: float
    length: int
    positions: int = 0


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
        self.value_norm = nn.LayerNorm(dim)
        self.value = nn.Linear(dim, dim)
        if config.positions:
            self.position_PD = nn.Parameter(torch.randn(config.positions, dim) * START_NOISE)
            self.attention = nn.Linear(dim, 4 * dim)
            self.query = nn.Linear(4 * dim, queries, bias=False)
        else:
            self.key = nn.Linear(dim, queries)
            nn.init.zeros_(self.key.weight)
            # Half-lives from one event to about a hundred: exp(-exp(rate)) per event of age.
            self.log_decay = nn.Parameter(torch.linspace(-0.7, -4.5, queries))
            self.until_decay = nn.Embedding(NUM_GAP_BUCKETS, queries)
            nn.init.zeros_(self.until_decay.weight)
        self.interest_norm = nn.LayerNorm(dim)
        self.interest_in = nn.Linear(dim, hidden)
        self.until = nn.Embedding(NUM_GAP_BUCKETS, hidden)
        self.interest_out = nn.Parameter(torch.zeros(queries, hidden, dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.dropout = nn.Dropout(config.dropout)
        for module in (self.gap, self.until, self.event_out, self.value):
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

    def _read(self, items_BLD: Tensor, events: EventBatch) -> tuple[Tensor, Tensor]:
        """The events, and the values that are pooled: [B, L, D] each."""
        event_BLD = self._events(items_BLD, events.gaps_BL, events.mask_BL)
        return event_BLD, items_BLD + self.value(self.value_norm(event_BLD))

    def slots(self, lengths_B: Tensor) -> int:
        """Places that histories of these lengths are read from, at the cost of an event each: packed or padded."""
        return min(len(lengths_B) * int(lengths_B.max()), self._packed_slots(lengths_B))

    def _packed_slots(self, lengths_B: Tensor) -> int:
        return int(lengths_B.sum()) + int((lengths_B > 0).sum()) * (self.config.kernel - 1)

    def _read_packed(self, items_BLD: Tensor, events: EventBatch) -> tuple[Tensor, Tensor]:
        """The same of all users as one sequence of P places, without their padding but what the convolution sees."""
        before = self.config.kernel - 1
        length_B1 = events.mask_BL.sum(1, keepdim=True)
        kept_B1 = torch.where(length_B1 > 0, length_B1 + before, 0)
        kept_BW = torch.arange(events.mask_BL.shape[1] + before, 0, -1, device=kept_B1.device) <= kept_B1
        place_P = kept_BW.flatten().nonzero().flatten()

        def packed(values: Tensor, *before_D: int) -> Tensor:
            return F.pad(values, (*before_D, before, 0)).flatten(0, 1).index_select(0, place_P)[None]

        alone = EventBatch(*(packed(part_BL) for part_BL in events))
        both_PD = self._read(packed(items_BLD, 0, 0), alone)
        # Where padding is, any event stands: it is masked, as padding is.
        back_BL = (kept_BW.flatten().cumsum(0) - 1).clamp_min(0).view(kept_BW.shape)[:, before:]
        event_BLD, values_BLD = (part_PD[0].index_select(0, back_BL.flatten()) for part_PD in both_PD)
        return event_BLD.view_as(items_BLD), values_BLD.view_as(items_BLD)

    def _refine(self, pooled_BQKD: Tensor, until_BQ: Tensor) -> Tensor:
        asked_BQ1H = self.until(until_BQ)[:, :, None]
        hidden = self.dropout(F.gelu(self.interest_in(self.interest_norm(pooled_BQKD)) + asked_BQ1H))
        return F.normalize(pooled_BQKD + torch.einsum("bqkh,khd->bqkd", hidden, self.interest_out), dim=-1)

    def after(self, items_BLD: Tensor, events: EventBatch, columns_BQ: Tensor) -> Tensor:
        """Coarse interests after Q of the events: [B, Q, K, D], unit length. Cost grows with Q · L.

        Args:
            items_BLD: the events' item vectors.
            events: times and mask of the events.
            columns_BQ: the last column each result may see.
        """
        packed = 0 < self._packed_slots(events.mask_BL.sum(1)) < events.mask_BL.numel()
        event_BLD, values_BLD = self._read_packed(items_BLD, events) if packed else self._read(items_BLD, events)
        until_BQ = events.until_BL.gather(1, columns_BQ)
        if self.config.positions:
            logits_BQKL = self._self_attention(values_BLD, events.mask_BL)[:, None]
        else:
            age_BQL = columns_BQ[..., None] - torch.arange(items_BLD.shape[1], device=items_BLD.device)
            decay_BQK = (self.log_decay + self.until_decay(until_BQ)).exp()
            logits_BKL = self.key(event_BLD).transpose(1, 2)
            logits_BQKL = logits_BKL[:, None] - decay_BQK[..., None] * age_BQL[:, :, None]
        pooled_BQKD = pool_prefixes(logits_BQKL, values_BLD, events.mask_BL, columns_BQ)
        return self._refine(pooled_BQKD, until_BQ)

    def _self_attention(self, values_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        place_BL = (mask_BL.cumsum(1) - 1).clamp(0, self.config.positions - 1)
        hidden_BLH = torch.tanh(self.attention(values_BLD + self.position_PD[place_BL]))
        logits_BKL: Tensor = self.query(hidden_BLH).transpose(1, 2)
        return logits_BKL.float()

    def forward(self, items_BLD: Tensor, events: EventBatch) -> Tensor:
        """Coarse interests of the whole history: [B, K, D], unit length. Cost grows linearly with L."""
        last_B1 = torch.full((len(items_BLD), 1), items_BLD.shape[1] - 1, device=items_BLD.device)
        return self.after(items_BLD, events, last_B1)[:, 0]

    def interest_scores(self, interests_BKD: Tensor, items_ND: Tensor) -> Tensor:
        """Score of every item under every coarse interest: [B, K, N]; merged by log-sum-exp."""
        return self.scale * interests_BKD @ items_ND.T
