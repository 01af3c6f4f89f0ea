"""SASRec, tuned: the single-vector baseline that many interests have to beat (Kang and McAuley, 2018).

A causal Transformer over the latest events; the state after an event is the user's one vector, and an item's score
is its cosine to it. What makes a strong one, our choices: pre-norm blocks, unit vectors with a learned temperature, a
softmax over the whole catalogue, positions counted back from the newest event, and item vectors that start from the
spectrum of the transition matrix (`transitions.py`), as our own item tower does, so that the comparison is about
interests and not about the start. Order only: no times, no text.

Shapes: B users, L events, D item dimension, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.item_table import ItemTable


@dataclass(frozen=True)
class SASRecConfig:
    """Sizes; `length` is how many of the latest events are read."""

    num_items: int
    dim: int
    layers: int
    heads: int
    length: int
    dropout: float


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.hidden_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.attention_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.hidden_in, self.hidden_out = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        for out in (self.attention_out, self.hidden_out):  # a block starts as the identity
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)

    def forward(self, states_BLD: Tensor, visible_B1LL: Tensor) -> Tensor:
        """One step of mixing and one of thinking: [B, L, D]."""
        split = self.qkv(self.attention_norm(states_BLD)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=visible_B1LL)
        mixed_BLD = self.attention_out(mixed.transpose(1, 2).flatten(2))
        states_BLD = states_BLD + F.dropout(mixed_BLD, self.dropout, self.training)
        hidden = F.dropout(F.gelu(self.hidden_in(self.hidden_norm(states_BLD))), self.dropout, self.training)
        return states_BLD + F.dropout(self.hidden_out(hidden), self.dropout, self.training)


class SASRec(ItemTable):
    """One vector a user from the latest events."""

    kind: ClassVar[str] = "sasrec"
    config_class: ClassVar[type] = SASRecConfig
    config: SASRecConfig

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__(config)
        self.position_LD = nn.Parameter(torch.zeros(config.length, config.dim))
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.log_scale = self._new_scale()

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The user's unit vector after every event: [B, L, D]; padded places hold nothing meaningful.

        Args:
            items_BLD: item vectors, old to new, padded on the left; L is at most `config.length`.
            mask_BL: True where there is an event.
        """
        length = items_BLD.shape[1]
        states_BLD = (items_BLD + self.position_LD[-length:]) * mask_BL[..., None]
        states_BLD = F.dropout(states_BLD, self.config.dropout, self.training)
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=mask_BL.device).tril()
        # A padded place sees itself, so that no row of the attention is empty.
        own_LL = torch.eye(length, dtype=torch.bool, device=mask_BL.device)
        visible_B1LL = ((causal_LL & mask_BL[:, None]) | own_LL)[:, None]
        for block in self.blocks:
            states_BLD = block(states_BLD, visible_B1LL)
        return F.normalize(self.norm(states_BLD), dim=-1)
