"""Item tower: an item's vector from its text and its behaviour (HyMiRec, part 1; the residual is our choice).

    v_i = normalize(P(text_i) + b_i)

P is a linear projection of the frozen text embedding, b_i a learned behavioural residual. Whole items lose their
residual at random in training, so that the text path alone serves an item nobody has touched yet.

Notable: training does not start from noise. The start is the spectral factorisation of the transition matrix
(`transitions.py`): P is the ridge regression of those vectors on the text, and b_i what the text cannot tell. At the
start v_i is thus exactly the spectral vector where there is one, and the text's best guess where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.module import SavedModule

RIDGE = 3.0  # in units of items: a direction of the text is trusted once a few items support it


@dataclass(frozen=True)
class ItemTowerConfig:
    """Sizes of the item tower: catalogue, text embedding width, item dimension."""

    num_items: int
    text_dim: int
    dim: int


class ItemTower(SavedModule):
    """Text projection plus behavioural residual, normalised."""

    kind: ClassVar[str] = "item_tower"
    config_class: ClassVar[type] = ItemTowerConfig
    config: ItemTowerConfig

    def __init__(self, config: ItemTowerConfig) -> None:
        super().__init__(config)
        self.projection = nn.Linear(config.text_dim, config.dim)
        self.residual_ND = nn.Parameter(torch.zeros(config.num_items, config.dim))

    def start_from(self, text_NE: Tensor, spectral_ND: np.ndarray, trained_N: np.ndarray) -> None:
        """Set projection and residuals so that the tower reproduces `spectral_ND` on trained items.

        Args:
            text_NE: text embeddings.
            spectral_ND: unit vectors of the items with transitions, zero rows elsewhere.
            trained_N: which items occur in training; the others keep a zero residual.
        """
        target = torch.as_tensor(spectral_ND, dtype=torch.float64)
        trained = torch.as_tensor(trained_N) & (target.norm(dim=1) > 0)
        text = text_NE.double()
        mean_E, mean_D = text[trained].mean(0), target[trained].mean(0)
        x, y = text[trained] - mean_E, target[trained] - mean_D
        gram = x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
        weight_ED = torch.linalg.solve(gram, x.T @ y)
        predicted_ND = (text - mean_E) @ weight_ED + mean_D
        with torch.no_grad():
            self.projection.weight.copy_(weight_ED.T)
            self.projection.bias.copy_(mean_D - mean_E @ weight_ED)
            self.residual_ND.copy_(torch.where(trained[:, None], target - predicted_ND, 0.0))

    def forward(self, text_NE: Tensor, keep_N: Tensor | None = None) -> Tensor:
        """Item vectors [N, D], unit length.

        Args:
            text_NE: text embeddings of all items.
            keep_N: where False, the item's residual is left out (dropout in training, cold items always).
        """
        residual_ND = self.residual_ND if keep_N is None else self.residual_ND * keep_N[:, None]
        return F.normalize(self.projection(text_NE) + residual_ND, dim=-1)
