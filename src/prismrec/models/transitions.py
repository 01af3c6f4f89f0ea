"""Local transitions between items: the decayed Markov matrix and its spectral factors.

On short e-commerce histories most of the signal lies in which item follows which. Two models rest on the
matrix made here: the decayed Markov baseline (`baselines.py`) and the item tower, whose behavioural residuals
start from the matrix's leading singular vectors (our choice; neither paper has it).

Notable: counting is one sort over integer pair codes, so nothing loops over users; all sums run in float64, so
that the result does not depend on the order of events.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

MAX_LAG = 3
REVERSE_WEIGHT = 0.5  # "j was followed by i" also says something about "i is followed by j"


def transition_counts(
    items: np.ndarray, offsets: np.ndarray, ends: np.ndarray, num_items: int, max_lag: int = MAX_LAG
) -> sp.csr_matrix:
    """Counts of item j following item i within `max_lag` events, weighted 1/lag.

    Args:
        items: [E] item indices of all users' events, user after user, in time order.
        offsets: [U+1] where each user's events start.
        ends: [U] how many of each user's first events count (the training part).
        num_items: N, the size of the catalogue.
        max_lag: the largest distance in events between i and j.

    Returns:
        [N, N] float64 CSR matrix.
    """
    lengths = np.diff(offsets)
    user_E = np.repeat(np.arange(len(lengths)), lengths)
    in_training_E = (np.arange(len(items)) - offsets[user_E]) < ends[user_E]
    item_T, user_T = items[in_training_E].astype(np.int64), user_E[in_training_E]
    counts = sp.csr_matrix((num_items, num_items), dtype=np.float64)
    for lag in range(1, max_lag + 1):
        same_user = user_T[lag:] == user_T[:-lag]
        code = item_T[:-lag][same_user] * num_items + item_T[lag:][same_user]
        pairs, times = np.unique(code, return_counts=True)
        matrix = sp.csr_matrix((times / lag, (pairs // num_items, pairs % num_items)), shape=counts.shape)
        counts = counts + matrix
    return counts


def with_reverse(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The matrix plus half its transpose."""
    return (matrix + REVERSE_WEIGHT * matrix.T).tocsr()


def spectral_vectors(counts: sp.csr_matrix, dim: int, seed: int) -> np.ndarray:
    """Item vectors from the leading singular vectors of the symmetrically normalised transition matrix.

    Args:
        counts: [N, N] transition counts, as counted (the reverse is added here).
        dim: D, the width of the vectors; at most N - 1 of them are filled, the others stay zero.
        seed: start vector of the Lanczos iteration.

    Returns:
        [N, D] float32, unit length for items with transitions, zero rows for the others.
    """
    counts = with_reverse(counts)
    row = np.asarray(counts.sum(1)).ravel()
    column = np.asarray(counts.sum(0)).ravel()
    left = sp.diags(1.0 / np.sqrt(np.maximum(row, 1e-12)) * (row > 0))
    right = sp.diags(1.0 / np.sqrt(np.maximum(column, 1e-12)) * (column > 0))
    rank = min(dim, counts.shape[0] - 1)
    start = np.random.default_rng(seed).standard_normal(counts.shape[0])
    u_NR, s_R, vt_RN = svds(left @ counts @ right, k=rank, v0=start)
    order = np.argsort(-s_R, kind="stable")
    u_NR, s_R, vt_RN = u_NR[:, order], s_R[order], vt_RN[order]
    sign = np.sign(u_NR[np.abs(u_NR).argmax(0), np.arange(rank)])  # a singular pair's sign is arbitrary: pin it
    vectors = (u_NR + vt_RN.T) * sign * np.sqrt(s_R)
    vectors[:, s_R <= 1e-9 * s_R[0]] = 0.0  # beyond the matrix's rank there is only rounding
    vectors[(row == 0) & (column == 0)] = 0.0
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 1e-9)
    return np.pad(vectors, ((0, 0), (0, dim - rank))).astype(np.float32)
