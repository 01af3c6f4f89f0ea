"""Calibration, of two kinds.

*Of a distribution over cells*: its likelihood, and whether it means what it says. Where a user has several targets,
each counts the same: a target drawn at random is what is predicted.

*Of lists* (Steck, 2018): whether a list's categories stand in the shares in which the history has them.

Shapes: B users, T targets, G cells, P predictions, K cells shown or places of a list; C cases, c of them held at once,
N items, M categories, E events of all users, n entries that are not zero.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from torch import Tensor

BINS = 15
SMOOTHING = 0.01  # share of the history's categories that every list is given (Steck's alpha)
SHARES = 2**22  # shares of categories held at once


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


def category_calibration(
    lists_CK: np.ndarray,
    items_E: np.ndarray,
    starts_C: np.ndarray,
    ends_C: np.ndarray,
    categories_NM: sp.csr_matrix,
    cutoffs: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """`category_kl@k`: KL divergence of a list's categories from the history's (Steck, 2018), nats: [C] float64 each.

    KL(p || 0.99 q + 0.01 p), p of the history and q of the list; 0 where the shares are the same. An event, or an item
    of the list, is shared out evenly among its categories; those without a category are left out, and a user with
    nothing left on either side is NaN.

    Args:
        lists_CK: item numbers, best first, -1 where a list is shorter.
        items_E: items of all users' events, flat.
        starts_C: where the case's history starts in `items_E`.
        ends_C: where it ends, itself excluded.
        categories_NM: an entry for every category that an item has; values are not read.
    """
    sizes_N = np.diff(categories_NM.indptr)
    weights_n = np.repeat(1.0 / np.maximum(sizes_N, 1), sizes_N)
    shared_NM = sp.csr_matrix((weights_n, categories_NM.indices, categories_NM.indptr), categories_NM.shape)
    values = {f"category_kl@{k}": np.full(len(lists_CK), np.nan) for k in cutoffs}
    rows = max(SHARES // max(shared_NM.shape[1], 1), 1)
    for start in range(0, len(lists_CK), rows):
        part = slice(start, start + rows)
        length_c = (ends_C - starts_C)[part]
        row_e = np.repeat(np.arange(len(length_c)), length_c)
        event_e = np.arange(len(row_e)) + np.repeat(starts_C[part] - (np.cumsum(length_c) - length_c), length_c)
        history_cM, had_c = _category_shares(row_e, items_E[event_e], len(length_c), shared_NM)
        entry = history_cM.tocoo()
        for k in cutoffs:
            row_p, place_p = np.nonzero(lists_CK[part, :k] >= 0)
            list_cM, has_c = _category_shares(row_p, lists_CK[part, :k][row_p, place_p], len(length_c), shared_NM)
            mixed_n = (1 - SMOOTHING) * list_cM.toarray()[entry.row, entry.col] + SMOOTHING * entry.data
            divergence_c = np.bincount(entry.row, entry.data * np.log(entry.data / mixed_n), len(length_c))
            values[f"category_kl@{k}"][part] = np.where(had_c & has_c, divergence_c, np.nan)
    return values


def _category_shares(
    row_p: np.ndarray, items_p: np.ndarray, rows: int, shared_NM: sp.csr_matrix
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Share of each category among each row's items [rows, M], and which rows have any."""
    counts = sp.csr_matrix((np.ones(len(row_p)), (row_p, items_p)), (rows, shared_NM.shape[0]))
    mass_cM = (counts @ shared_NM).tocsr()
    mass_c = np.asarray(mass_cM.sum(1)).ravel()
    return sp.diags_array(1.0 / np.where(mass_c > 0, mass_c, 1.0)) @ mass_cM, mass_c > 0
