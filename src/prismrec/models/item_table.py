"""What the trained baselines share: a table of item vectors of their own, and a learned temperature.

The vectors start from the spectrum of the transition matrix (`transitions.py`), as our item tower's do, so that a
comparison with ours is about interests and not about the start.

Shapes: D item dimension, N items.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.module import SavedModule

INITIAL_SCALE = 1.0 / 0.05  # inverse temperature, learned from here
MAX_SCALE = 100.0
START_NOISE = 0.02  # rows without transitions start from noise of this deviation


class ItemTable(SavedModule):
    """A model with item vectors of its own, the same for input and output; it makes its `log_scale` last."""

    log_scale: nn.Parameter

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.item_ND = nn.Parameter(torch.randn(config.num_items, config.dim) * START_NOISE)

    def _new_scale(self) -> nn.Parameter:
        return nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def start_from(self, spectral_ND: np.ndarray) -> None:
        """Item vectors from the transition matrix; rows of zeros keep their noise."""
        start_ND = torch.as_tensor(spectral_ND)
        with torch.no_grad():
            self.item_ND.copy_(torch.where(start_ND.norm(dim=1, keepdim=True) > 0, start_ND, self.item_ND))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature that turns cosines into logits."""
        return self.log_scale.exp().clamp_max(MAX_SCALE)

    def items(self) -> Tensor:
        """Unit item vectors: [N, D]."""
        return F.normalize(self.item_ND, dim=-1)
