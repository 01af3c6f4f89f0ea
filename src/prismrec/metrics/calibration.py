"""How good a distribution over cells is as a distribution: its likelihood, and whether it means what it says.

Where a user has several targets, each counts the same: a target drawn at random is what is predicted.

Shapes: B users, T targets, G cells, P predictions, K cells shown.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

BINS = 15


def log_likelihood(log_BG: Tensor, cells_BT: Tensor, mask_BT: Tensor) -> np.ndarray:
    """Mean log P(cell | u) of each user's targets, in nats: [B] float64; NaN for a user without one."""
    log_BT = log_BG.gather(1, cells_BT.where(mask_BT, 0)).double().where(mask_BT, 0.0)
    mean_B: np.ndarray = (log_BT.sum(1) / mask_BT.sum(1)).numpy()
    return mean_B


def shown_cells(log_BG: Tensor, cells_BT: Tensor, mask_BT: Tensor, shown: int) -> tuple[np.ndarray, np.ndarray]:
    """What is said of each user's most likely cells, and what came of it: [B, K] float64 each.

    Returns:
        Their probabilities, and the share of the user's targets that lie in them.
    """
    best = log_BG.topk(min(shown, log_BG.shape[1]), dim=1)
    hits_BKT = (best.indices[:, :, None] == cells_BT[:, None]) & mask_BT[:, None]
    return best.values.double().exp().numpy(), (hits_BKT.sum(2) / mask_BT.sum(1, keepdim=True)).double().numpy()


def calibration_error(said_P: np.ndarray, came_P: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., 2017): mean distance of what was said to what came, bin by bin.

    Bins are of equal width over [0, 1], a bin's right end belongs to it, and each bin weighs as many predictions as
    lie in it.

    Args:
        said_P: probabilities.
        came_P: what came: 0, 1, or a share.
    """
    return float(sum(abs(said - came) * weight for said, came, weight in reliability(said_P, came_P, bins)))


def reliability(said_P: np.ndarray, came_P: np.ndarray, bins: int = BINS) -> list[tuple[float, float, float]]:
    """For each bin that holds predictions: mean probability, mean outcome, share of all predictions."""
    bin_P = np.clip(np.ceil(said_P * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(bin_P, minlength=bins)
    said, came = (np.bincount(bin_P, weights=values, minlength=bins) for values in (said_P, came_P))
    return [
        (float(said[b] / counts[b]), float(came[b] / counts[b]), float(counts[b] / len(said_P)))
        for b in np.flatnonzero(counts)
    ]
