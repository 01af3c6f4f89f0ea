"""Residual quantiser of the interest dictionary (GemiRec, IDMM).

C sub-dictionaries E_c of M_c codes in a d-wide space, Euclidean, applied one after the other:
    m_c = argmin_j ‖r_c − e^c_j‖²,   r_{c+1} = r_c − sg[e^c_{m_c}]
The codes follow an exponential moving average of the residuals they get (so the loss needs no codebook term), start
from k-means, and a code that goes unused is put back onto a random residual. All of this is our choice.

Notable: the codes are buffers, no parameters: no gradient moves them. Reseeding happens while fitting only.

Shapes: n vectors, C levels, M codes a level, d width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

DECAY = 0.98
DEAD_SHARE = 0.1  # a code with less than this share of an even load counts as dead


class Quantized(NamedTuple):
    """A batch of vectors and the codes they fall into."""

    codes_nC: Tensor  # int64
    residuals_CnD: Tensor  # what each level was given, with the gradient of the input
    chosen_CnD: Tensor  # the codes' vectors, without gradient
    distances_n: Tensor  # squared length of what the last level leaves


class ResidualQuantizer(nn.Module):
    """C levels of M_c codes."""

    def __init__(self, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sizes = sizes
        for level, size in enumerate(sizes):
            self.register_buffer(f"codes_{level}", torch.zeros(size, dim))
            self.register_buffer(f"load_{level}", torch.ones(size))

    def codes(self, level: int) -> Tensor:
        """[M, d] code vectors of a level."""
        codes: Tensor = getattr(self, f"codes_{level}")
        return codes

    def forward(self, inputs_nD: Tensor) -> Quantized:
        """Quantise level by level; residuals keep the gradient of the input, codes have none."""
        residual_nD, codes, residuals, chosen = inputs_nD, [], [], []
        for level in range(len(self.sizes)):
            # Differences, not dot products: a vector's code must not depend on the batch it stands in.
            distance_nM = torch.cdist(
                residual_nD.detach(), self.codes(level), compute_mode="donot_use_mm_for_euclid_dist"
            )
            code_n = distance_nM.argmin(1)
            chosen_nD = self.codes(level)[code_n].detach()
            codes.append(code_n)
            residuals.append(residual_nD)
            chosen.append(chosen_nD)
            residual_nD = residual_nD - chosen_nD
        distances_n = residual_nD.detach().square().sum(1)
        return Quantized(torch.stack(codes, 1), torch.stack(residuals), torch.stack(chosen), distances_n)

    @torch.no_grad()
    def start_from(self, inputs_nD: Tensor, seed: int) -> None:
        """Set every level's codes by k-means on the residuals of `inputs_nD` (at least M vectors)."""
        import faiss

        residual = np.ascontiguousarray(inputs_nD.numpy(), dtype=np.float32)
        for level, size in enumerate(self.sizes):
            kmeans = faiss.Kmeans(
                residual.shape[1], size, niter=25, nredo=5, seed=seed + level, verbose=False,
                min_points_per_centroid=1, max_points_per_centroid=10_000,
            )  # fmt: skip
            kmeans.train(residual)
            centroids: np.ndarray = kmeans.centroids  # type: ignore[assignment]
            self.codes(level).copy_(torch.as_tensor(centroids))
            getattr(self, f"load_{level}").fill_(len(residual) / size)
            _, nearest = kmeans.index.search(residual, 1)
            residual = residual - centroids[nearest[:, 0]]

    @torch.no_grad()
    def follow(self, quantized: Quantized, generator: torch.Generator) -> int:
        """Move the codes towards the residuals they got; put dead ones back to work. Returns how many were dead."""
        reseeded = 0
        for level, size in enumerate(self.sizes):
            codes_MD, load_M = self.codes(level), getattr(self, f"load_{level}")
            residual_nD, code_n = quantized.residuals_CnD[level], quantized.codes_nC[:, level]
            count_M = torch.bincount(code_n, minlength=size).to(load_M.dtype)
            sum_MD = torch.zeros_like(codes_MD).index_add_(0, code_n, residual_nD)
            new_load_M = DECAY * load_M + (1 - DECAY) * count_M
            mass_MD = DECAY * load_M[:, None] * codes_MD + (1 - DECAY) * sum_MD
            codes_MD.copy_(mass_MD / new_load_M[:, None].clamp_min(1e-6))
            load_M.copy_(new_load_M)
            even = float(new_load_M.mean())
            dead = torch.nonzero(load_M < DEAD_SHARE * even).flatten()
            if len(dead):
                pick = torch.randint(len(residual_nD), (len(dead),), generator=generator)
                codes_MD[dead] = residual_nD[pick]
                load_M[dead] = even
                reseeded += len(dead)
        return reseeded
