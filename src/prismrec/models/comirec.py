"""ComiRec-SA: the multi-interest baseline (Cen et al., 2020), self-attentive variant.

    A = softmax over events of W2 tanh(W1 (H + P)),   V = A H

K rows of A pool the K interests V out of item vectors H with positions P. A target is trained on the one interest
that is nearest to it, and lists are merged by the largest score. Hidden width 4 D as in the paper. As with our SASRec,
and for the same reason: unit vectors with a learned temperature, a softmax over the whole catalogue, item vectors that
start from the transition matrix. Order only: no times, no text.

Notable: positions count from the first event read, as published, so an event's attention logit depends on the event
and its place alone, and the interests after many events of a crop come from one pass (`after`).

Shapes: B users, L events, Q prefixes, K interests, D item dimension, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.item_table import START_NOISE, ItemTable


def pool_prefixes(logits_BQKL: Tensor, values_BLD: Tensor, mask_BL: Tensor, columns_BQ: Tensor) -> Tensor:
    """K attention-weighted sums of the events up to each of Q columns: [B, Q, K, D].

    Args:
        logits_BQKL: attention of every event; Q may be 1 where it is the same for all columns.
        values_BLD: what is summed.
        mask_BL: True where there is an event.
        columns_BQ: the last column each sum may see.
    """
    column_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    visible_BQL = (column_L <= columns_BQ[..., None]) & mask_BL[:, None]
    weight_BQKL = logits_BQKL.masked_fill(~visible_BQL[:, :, None], -1e4).softmax(-1)
    pooled = weight_BQKL.flatten(1, 2).to(values_BLD.dtype) @ values_BLD
    return pooled.view(*weight_BQKL.shape[:3], values_BLD.shape[-1])


@dataclass(frozen=True)
class ComiRecConfig:
    """Sizes; `length` is how many of the latest events are read."""

    num_items: int
    dim: int
    num_interests: int
    length: int
    dropout: float


class ComiRec(ItemTable):
    """K interests a user, pooled by self-attention."""

    kind: ClassVar[str] = "comirec"
    config_class: ClassVar[type] = ComiRecConfig
    config: ComiRecConfig

    def __init__(self, config: ComiRecConfig) -> None:
        super().__init__(config)
        self.position_LD = nn.Parameter(torch.randn(config.length, config.dim) * START_NOISE)
        self.hidden = nn.Linear(config.dim, 4 * config.dim)
        self.query = nn.Linear(4 * config.dim, config.num_interests, bias=False)
        self.log_scale = self._new_scale()

    def after(self, items_BLD: Tensor, mask_BL: Tensor, columns_BQ: Tensor) -> Tensor:
        """Interests after Q of the events: [B, Q, K, D], unit length.

        Args:
            items_BLD: item vectors, old to new, padded on the left; L is at most `config.length`.
            mask_BL: True where there is an event.
            columns_BQ: the last column each result may see.
        """
        place_BL = (mask_BL.cumsum(1) - 1).clamp_min(0)
        items_BLD = F.dropout(items_BLD, self.config.dropout, self.training)
        logits_BKL = self.query(torch.tanh(self.hidden(items_BLD + self.position_LD[place_BL]))).transpose(1, 2)
        return F.normalize(pool_prefixes(logits_BKL[:, None].float(), items_BLD, mask_BL, columns_BQ), dim=-1)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Interests of the whole history: [B, K, D], unit length."""
        last_B1 = torch.full((len(items_BLD), 1), items_BLD.shape[1] - 1, device=items_BLD.device)
        return self.after(items_BLD, mask_BL, last_B1)[:, 0]
