"""Intra-list diversity: mean distance of the pairs of items in a user's list (Ziegler et al., 2005).

By text, one minus the cosine of the items' text embeddings; by category, one minus the Jaccard index of their sets of
categories. What is not known makes no pair (our choice): an item without an embedding (a zero vector) or without a
category is left out, and a user with fewer than two items left is NaN.

Lists are item numbers, best first, with -1 where a list is shorter.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = 2**24  # numbers held at once: 64 MiB


def text_diversity(lists_CK: np.ndarray, vectors_ND: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, np.ndarray]:
    """`diversity_text@k` of every user: [C] float64 each.

    The cosines of all pairs of n unit vectors add up to (|sum|² - n) / 2, so no pair is formed.

    Args:
        vectors_ND: text embeddings; made unit length here.
    """
    unit_ND = F.normalize(torch.as_tensor(vectors_ND, dtype=torch.float32), dim=1)
    padding = len(unit_ND)
    # The last row, zero, stands for padding. embedding_bag adds rows up without gathering them first.
    unit_ND = torch.cat([unit_ND, unit_ND.new_zeros(1, unit_ND.shape[1])])
    known_N = unit_ND.any(1)
    values = {f"diversity_text@{k}": np.full(len(lists_CK), np.nan) for k in cutoffs}
    rows = max(CELLS // unit_ND.shape[1], 1)
    for start in range(0, len(lists_CK), rows):
        lists_cK = torch.as_tensor(lists_CK[start : start + rows]).long()
        lists_cK = lists_cK.masked_fill(lists_cK < 0, padding)
        for k in cutoffs:
            head_ck = lists_cK[:, :k].contiguous()
            square_c = F.embedding_bag(head_ck, unit_ND, mode="sum").double().square().sum(1)
            n_c = known_N[head_ck].sum(1)
            cosine_c = (square_c - n_c) / (n_c * (n_c - 1))
            distance_c = torch.where(n_c > 1, 1 - cosine_c, torch.nan)
            values[f"diversity_text@{k}"][start : start + rows] = distance_c.numpy()
    return values


def category_diversity(
    lists_CK: np.ndarray, categories_NM: sp.csr_matrix, cutoffs: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """`diversity_category@k` of every user: [C] float64 each.

    Args:
        categories_NM: an entry for every category that an item has; values are not read.
    """
    depth, most = max(cutoffs), int(np.diff(categories_NM.indptr).max(initial=0))
    values = {f"diversity_category@{k}": np.full(len(lists_CK), np.nan) for k in cutoffs}
    if not most:
        return values
    width = min(categories_NM.shape[1], depth * most)  # one list has no more categories
    rows = max(CELLS // (depth * (3 * depth + width)), 1)
    for start in range(0, len(lists_CK), rows):
        has_cKM = _own_categories(lists_CK[start : start + rows, :depth], categories_NM)
        size_cK = has_cKM.sum(2)
        common_cKK = has_cKM @ has_cKM.transpose(1, 2)
        union_cKK = size_cK[:, :, None] + size_cK[:, None, :] - common_cKK
        jaccard_cKK = common_cKK.div_(union_cKK.clamp_min_(1.0))  # 0 with an item without categories, 1 with itself
        for k in cutoffs:
            n_c = (size_cK[:, :k] > 0).sum(1)
            pairs_c = (n_c * (n_c - 1)).double()
            alike_c = jaccard_cKK[:, :k, :k].sum((1, 2), dtype=torch.float64) - n_c
            distance_c = torch.where(n_c > 1, 1 - alike_c / pairs_c, torch.nan)
            values[f"diversity_category@{k}"][start : start + rows] = distance_c.numpy()
    return values


def _own_categories(lists_cK: np.ndarray, categories_NM: sp.csr_matrix) -> Tensor:
    """Which categories every item of a list has: [c, K, M] 0 or 1.

    Columns number the categories of each list by themselves, so that M is what one list needs, not the catalogue.
    """
    row_P, place_P = np.nonzero(lists_cK >= 0)
    found_PM = categories_NM[lists_cK[row_P, place_P]]
    size_P = np.diff(found_PM.indptr)
    row_E, place_E = np.repeat(row_P, size_P), np.repeat(place_P, size_P)
    num_categories = categories_NM.shape[1]
    codes, column_E = np.unique(row_E * num_categories + found_PM.indices, return_inverse=True)
    column_E = column_E - np.searchsorted(codes, np.arange(len(lists_cK)) * num_categories)[row_E]
    has_cKM = np.zeros((*lists_cK.shape, column_E.max(initial=-1) + 1), np.float32)
    has_cKM[row_E, place_E, column_E] = 1.0
    return torch.from_numpy(has_cKM)
