"""Item tower: an item's vector from its text and its behaviour (HyMiRec, part 1; the residual is our choice).

    v_i = normalize(P(text_i) + b_i)

P is a linear projection of the text embedding, b_i a learned behavioural residual. An item that nobody has touched yet
has none; ours is then borrowed from the trained items whose texts are nearest (our choice):

    b_i = u + g Σ_j softmax_j(τ cos(text_i, text_j)) b_j

with u, g and τ learned. Whole items borrow at random in training, so that this path is trained too. A plain P(text_i)
forgets what the text tells of single neighbours (the same series, the same author), for D is a fraction of E.
Trained so, an untrained item is rated as likely as its like among all items, and the surer vectors of trained ones
leave it no place in a list. `lift` leans it towards the mean interest of all users by a chosen amount: a prior.

Notable: training does not start from noise. The start is the spectral factorisation of the transition matrix
(`transitions.py`): P is the ridge regression of those vectors on the text, and b_i what the text cannot tell. At the
start v_i is thus exactly the spectral vector where there is one.

Shapes: N items, M neighbours, X items that borrow, E width of a text embedding, D item dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.item_table import START_NOISE
from prismrec.models.module import SavedModule

RIDGE = 3.0  # in units of items: a direction of the text is trusted once a few items support it
NEIGHBOURS = 16
SHARPNESS = 20.0  # τ at the start: a cosine larger by 0.05 weighs e times as much
NONE = -2.0  # the cosine of a neighbour that is none
BLOCK = 1024  # items whose neighbours are sought at once


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
    neighbours_NM: Tensor  # trained items of the nearest texts
    cosines_NM: Tensor
    lift_D: Tensor  # added to the unit vector of an item that borrows, once training is over

    def __init__(self, config: ItemTowerConfig) -> None:
        super().__init__(config)
        self.projection = nn.Linear(config.text_dim, config.dim)
        self.residual_ND = nn.Parameter(torch.zeros(config.num_items, config.dim))
        self.shift_D = nn.Parameter(torch.zeros(config.dim))
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        places = (config.num_items, min(NEIGHBOURS, config.num_items))
        self.register_buffer("neighbours_NM", torch.zeros(places, dtype=torch.int64))
        self.register_buffer("cosines_NM", torch.full(places, NONE))
        self.register_buffer("lift_D", torch.zeros(config.dim))

    def start_from(self, text_NE: Tensor, spectral_ND: np.ndarray, trained_N: np.ndarray) -> None:
        """Set projection and residuals so that the tower reproduces `spectral_ND` on trained items.

        Args:
            text_NE: text embeddings.
            spectral_ND: unit vectors of the items with transitions, zero rows elsewhere.
            trained_N: which items occur in training; the others keep a zero residual of their own.
        """
        self.find_neighbours(text_NE, torch.as_tensor(trained_N))
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

    @torch.no_grad()
    def start_from_noise(self, text_NE: Tensor, trained_N: np.ndarray) -> None:
        """Set residuals of trained items to small noise, as an ablation: nothing is known of transitions."""
        self.find_neighbours(text_NE, torch.as_tensor(trained_N))
        noise_ND = torch.randn_like(self.residual_ND) * START_NOISE
        self.residual_ND.copy_(noise_ND * torch.as_tensor(trained_N)[:, None])

    @torch.no_grad()
    def find_neighbours(self, text_NE: Tensor, trained_N: Tensor) -> None:
        """Look up every item's nearest texts among the trained items, itself excepted.

        Exact, at a cost of N²; anew whenever the text embeddings change.
        """
        unit_NE = F.normalize(text_NE, dim=-1)
        for start in range(0, len(unit_NE), BLOCK):
            cosine_BN = (unit_NE[start : start + BLOCK] @ unit_NE.T).masked_fill(~trained_N, NONE)
            cosine_BN.diagonal(start).fill_(NONE)
            best = cosine_BN.topk(self.neighbours_NM.shape[1], dim=1)
            self.cosines_NM[start : start + BLOCK] = best.values
            self.neighbours_NM[start : start + BLOCK] = best.indices

    def borrowed(self, items_X: Tensor) -> Tensor:
        """Residuals [X, D] lent by the neighbours of some items."""
        return self._lent(self.cosines_NM[items_X], self.neighbours_NM[items_X])

    def _lent(self, cosines_XM: Tensor, neighbours_XM: Tensor) -> Tensor:
        weight_XM = (cosines_XM * self.log_sharpness.exp()).softmax(-1) * (cosines_XM > NONE)
        # Summed without gathering [X, M, D] rows first: at a million items they would be gigabytes.
        lent_XD = F.embedding_bag(neighbours_XM, self.residual_ND, per_sample_weights=weight_XM, mode="sum")
        return self.shift_D + self.gain * lent_XD

    def forward(self, text_NE: Tensor, keep_N: Tensor | None = None) -> Tensor:
        """Item vectors [N, D], unit length.

        Args:
            text_NE: text embeddings of all items.
            keep_N: where False, the item borrows its residual (at random in training, never-trained items always).
        """
        projected_ND: Tensor = self.projection(text_NE)
        items_ND = F.normalize(projected_ND + self.residual_ND, dim=-1)
        if keep_N is None:
            return items_ND
        items_X = (~keep_N).nonzero()[:, 0]
        untrained_XD = F.normalize(projected_ND[items_X] + self.borrowed(items_X), dim=-1)
        return items_ND.index_copy(0, items_X, F.normalize(untrained_XD + self.lift_D, dim=-1).to(items_ND.dtype))

    def of_texts(self, text_XE: Tensor, text_NE: Tensor, lenders_N: Tensor) -> Tensor:
        """Vectors [X, D] of items that the catalogue does not have, unit length, by their texts alone.

        Args:
            text_XE: their text embeddings.
            text_NE: text embeddings of the catalogue.
            lenders_N: bool, the trained items, which lend their residuals.
        """
        cosines_XN = (F.normalize(text_XE, dim=-1) @ F.normalize(text_NE, dim=-1).T).masked_fill(~lenders_N, NONE)
        best = cosines_XN.topk(self.neighbours_NM.shape[1], dim=1)
        vectors_XD = F.normalize(self.projection(text_XE) + self._lent(best.values, best.indices), dim=-1)
        return F.normalize(vectors_XD + self.lift_D, dim=-1)

    def retexted(self, text_XE: Tensor, items_X: Tensor) -> Tensor:
        """Vectors [X, D] of trained items whose texts have changed: they keep the residuals of their behaviour."""
        return F.normalize(self.projection(text_XE) + self.residual_ND[items_X], dim=-1)
