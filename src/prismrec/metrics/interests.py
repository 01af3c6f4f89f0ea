"""What a model of several interests does with them, and whether they collapse into one.

A cell is an interest of the dictionary; every item has one, or -1 where it has none (such a target counts in no
figure by cells). Under ties, hits are expectations, as in `metrics.ranking`.

Shapes: C users, T targets, B users of a batch, b of them held at once, K interests, D dimension, k places, E events of
all users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prismrec.metrics.ranking import TargetRanks, first_place, per_user_metrics, rank_targets

CHUNK = 8192  # groups of targets, or users, handled at once
EVENTS = 2**22  # history events expanded at once
HELD = 2**22  # scores of interests held at once


def cells_hit(ranks: TargetRanks, cells_CT: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Distinct cells of the targets found among the first k: [C] float64 each; NaN for a user without such a target.

    Args:
        cells_CT: the targets' cells; -1 for none.

    Returns:
        `cells_hit@k`, their expected number, and `cells_hit_share@k`, as a share of the cells of all targets.
    """
    user_P, column_P = np.nonzero(ranks.mask_CT.numpy() & (cells_CT >= 0))
    higher_P = ranks.higher_CT.numpy()[user_P, column_P]
    tied_P, cell_P = ranks.tied_CT.numpy()[user_P, column_P], cells_CT[user_P, column_P]
    order_P = np.lexsort((higher_P, cell_P, user_P))
    user_P, cell_P, higher_P, tied_P = (part[order_P] for part in (user_P, cell_P, higher_P, tied_P))
    new_cell_P = np.r_[True, (np.diff(user_P) != 0) | (np.diff(cell_P) != 0)][: len(user_P)]
    new_tie_P = new_cell_P | np.r_[True, np.diff(higher_P) != 0][: len(user_P)]
    first_G = np.flatnonzero(new_cell_P)  # a group: the targets of one user in one cell, best first
    in_tie = np.bincount(np.cumsum(new_tie_P) - 1)  # targets of the group in one tie
    targets_G = in_tie[np.cumsum(new_tie_P)[first_G] - 1]
    user_G, users = user_P[first_G], len(cells_CT)
    cells_C = np.bincount(user_G, minlength=users).astype(np.float64)
    cells_C[cells_C == 0] = np.nan
    hit_GJ = _chance_of_hit(higher_P[first_G], tied_P[first_G], targets_G, cutoffs)
    metrics: dict[str, np.ndarray] = {}
    for column, k in enumerate(cutoffs):
        found_C = np.bincount(user_G, weights=hit_GJ[:, column], minlength=users)
        metrics[f"cells_hit@{k}"] = np.where(np.isnan(cells_C), np.nan, found_C)
        metrics[f"cells_hit_share@{k}"] = found_C / cells_C
    return metrics


def _chance_of_hit(
    higher_G: np.ndarray, items_G: np.ndarray, targets_G: np.ndarray, cutoffs: tuple[int, ...]
) -> np.ndarray:
    """Chance that a group's first target is among the first k: [G, number of cutoffs]."""
    chance_GJ = np.zeros((len(higher_G), len(cutoffs)))
    for start in range(0, len(higher_G), CHUNK):
        part = slice(start, start + CHUNK)
        law_gK = first_place(higher_G[part], items_G[part], targets_G[part], max(cutoffs))
        chance_GJ[part] = np.stack([law_gK[:, :k].sum(1) for k in cutoffs], axis=1)
    return np.minimum(chance_GJ, 1.0)


def new_interest_recall(ranks: TargetRanks, new_CT: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, np.ndarray]:
    """`new_interest_recall@k`: Recall of the targets of new interests: [C] float64, NaN for a user without one.

    Args:
        new_CT: `new_interests`.
    """
    only_new = ranks._replace(mask_CT=ranks.mask_CT & torch.as_tensor(new_CT))
    figures = per_user_metrics(only_new, cutoffs)
    return {f"new_interest_recall@{k}": figures[f"recall@{k}"] for k in cutoffs}


def new_interests(
    cells_CT: np.ndarray, items_E: np.ndarray, starts_C: np.ndarray, ends_C: np.ndarray, cells_N: np.ndarray
) -> np.ndarray:
    """Which targets have a cell that no event of the history has: [C, T] bool.

    Args:
        cells_CT: the targets' cells; -1 for none.
        items_E: items of all users' events, flat.
        starts_C: where the case's history starts in `items_E`.
        ends_C: where it ends, itself excluded.
        cells_N: cell of every item.
    """
    radix = int(max(cells_N.max(initial=-1), cells_CT.max(initial=-1))) + 2  # cells from -1 on
    seen_CT = np.zeros(cells_CT.shape, dtype=bool)
    before_C = np.concatenate([[0], np.cumsum(ends_C - starts_C)])
    start = 0
    while start < len(cells_CT):
        stop = max(int(np.searchsorted(before_C, before_C[start] + EVENTS, side="right")) - 1, start + 1)
        length_c = (ends_C - starts_C)[start:stop]
        row_e = np.repeat(np.arange(stop - start), length_c)
        position_e = np.arange(len(row_e)) + np.repeat(
            starts_C[start:stop] - (before_C[start:stop] - before_C[start]), length_c
        )
        history_e = row_e * radix + cells_N[items_E[position_e]] + 1
        target_cT = np.arange(stop - start)[:, None] * radix + cells_CT[start:stop] + 1
        seen_CT[start:stop] = np.isin(target_cT, history_e)
        start = stop
    return ~seen_CT & (cells_CT >= 0)


def new_cell_recall(
    scores_BG: Tensor, seen_BG: Tensor, cells_BT: Tensor, mask_BT: Tensor, cutoffs: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """`new_cell_recall@k`: share of the targets' new cells among the first k cells that the history does not have.

    Where `new_interest_recall` looks for the items in a list of items, this looks for the interests themselves.

    Args:
        scores_BG: any scores of the cells, higher is better; ties count as in `metrics.ranking`.
        seen_BG: bool, the cells of the history, which are not asked for.
        cells_BT: the targets' cells, each at least 0.
        mask_BT: which entries are targets.

    Returns:
        [B] float64 each; NaN for a user whose targets all have a cell of the history.
    """
    new_BG = torch.zeros_like(seen_BG)
    user_P, column_P = mask_BT.nonzero(as_tuple=True)
    new_BG[user_P, cells_BT[user_P, column_P]] = True
    new_BG &= ~seen_BG
    first = new_BG.sort(dim=1, descending=True, stable=True)
    width = max(int(new_BG.sum(1).max()), 1)
    ranks = rank_targets(scores_BG.masked_fill(seen_BG, -torch.inf), first.indices[:, :width], first.values[:, :width])
    figures = per_user_metrics(ranks, cutoffs)
    return {f"new_cell_recall@{k}": figures[f"recall@{k}"] for k in cutoffs}


def cell_transitions(cells_E: np.ndarray, offsets: np.ndarray, ends_U: np.ndarray, num_cells: int) -> np.ndarray:
    """A first-order Markov chain over cells, smoothed by their popularity: [G, G] float64, rows sum to 1.

    Row g is the law of the next event's cell after an event of cell g: its transitions, and one more event shared out
    as all events are (our choice, so that cells never met after g stand by their popularity).

    Args:
        cells_E: cells of all users' events, flat.
        offsets: [U + 1] where each user's events start.
        ends_U: each user's first so many events are counted.
    """
    user_E = np.repeat(np.arange(len(ends_U)), np.diff(offsets))
    position_E = np.arange(len(cells_E)) - offsets[user_E]
    counted_E = position_E < ends_U[user_E]
    pairs = np.flatnonzero(counted_E[1:] & (position_E[1:] > 0))
    codes = cells_E[pairs].astype(np.int64) * num_cells + cells_E[pairs + 1]
    counts_GG = np.bincount(codes, minlength=num_cells**2).reshape(num_cells, num_cells).astype(np.float64)
    popularity_G = np.bincount(cells_E[counted_E], minlength=num_cells) / max(int(counted_E.sum()), 1)
    counts_GG += popularity_G
    law_GG: np.ndarray = counts_GG / np.maximum(counts_GG.sum(1, keepdims=True), 1e-12)
    return law_GG


def best_of_cells(scores_BN: Tensor, cells_N: Tensor, num_cells: int) -> Tensor:
    """Score of each cell's best item, -inf for a cell without items: [B, G].

    So cells stand in the order in which a list of items reaches them: what any model of items says of cells.
    """
    best_BG = scores_BN.new_full((len(scores_BN), num_cells), -torch.inf)
    return best_BG.scatter_reduce_(1, cells_N.expand(len(scores_BN), -1), scores_BN, "amax")


def effective_rank(vectors_BKD: Tensor) -> Tensor:
    """Exp of the entropy of the normalised singular values (Roy and Vetterli, 2007): [B] float64, from 1 to K.

    The singular values are the square roots of the Gram matrix's eigenvalues, which is K x K; in double precision,
    since the roots halve the digits.
    """
    vectors_BKD = vectors_BKD.double()
    eigenvalues_BK = torch.linalg.eigvalsh(vectors_BKD @ vectors_BKD.transpose(1, 2))
    singular_BK = eigenvalues_BK.clamp_min(0.0).sqrt()
    share_BK = singular_BK / singular_BK.sum(1, keepdim=True)
    entropy_B: Tensor = torch.special.entr(share_BK).sum(1)
    return entropy_B.exp()


def interest_cosine(vectors_BKD: Tensor) -> Tensor:
    """Mean cosine of the pairs of a user's interests: [B] float64; 1 when they are all the same.

    Args:
        vectors_BKD: unit vectors, at least two a user.
    """
    interests = vectors_BKD.shape[1]
    assert interests > 1, "one interest makes no pair"
    vectors_BKD = vectors_BKD.double()
    among_all_B = vectors_BKD.sum(1).square().sum(1) - vectors_BKD.square().sum((1, 2))
    return among_all_B / (interests * (interests - 1))


def interest_jaccard(spaces: Sequence[tuple[Tensor, Tensor]], recommendable_N: Tensor, nearest: int) -> Tensor:
    """Mean Jaccard index of the pairs of a user's interests, each the set of items nearest to it: [B] float64.

    1 when all interests lead to the same items, 0 when no two share any.

    Args:
        spaces: unit vectors [B, K, D] of interests, and item vectors [N, D] in the same space; of all spaces together
            at least two interests a user.
        recommendable_N: which items count.
        nearest: items an interest; all that count, where they are fewer.
    """
    interests = sum(vectors_BKD.shape[1] for vectors_BKD, _ in spaces)
    assert interests > 1, "one interest makes no pair"
    hidden_N, listed = ~recommendable_N, min(nearest, int(recommendable_N.sum()))
    size = max(HELD // (interests * len(recommendable_N)), 1)
    parts = []
    for start in range(0, len(spaces[0][0]), size):
        some = slice(start, start + size)
        scores_bKN = torch.cat([vectors_BKD[some] @ items_ND.T for vectors_BKD, items_ND in spaces], dim=1)
        lists_bKk = scores_bKN.masked_fill_(hidden_N, -torch.inf).topk(listed, dim=2).indices
        sets_bKN = scores_bKN.zero_().scatter_(2, lists_bKk, 1.0)  # the same memory again
        common_bKK = (sets_bKN @ sets_bKN.transpose(1, 2)).double()
        jaccard_bKK = common_bKK / (2 * listed - common_bKK)
        parts.append((jaccard_bKK.sum((1, 2)) - interests) / (interests * (interests - 1)))
    return torch.cat(parts)


def interest_shares(owners_Bk: Tensor) -> dict[str, Tensor]:
    """How a list is shared out among a user's interests: [B] float64 each.

    `interests_shown`: interests that own an item of the list; `largest_interest_share`: share of the list's items that
    one interest owns, 1 when it owns them all.

    Args:
        owners_Bk: int64, the interest that owns each item of the list.
    """
    same_Bkk = owners_Bk[:, :, None] == owners_Bk[:, None, :]
    first_Bk = ~same_Bkk.tril(-1).any(2)
    return {
        "interests_shown": first_Bk.sum(1).double(),
        "largest_interest_share": same_Bkk.sum(2).amax(1).double() / owners_Bk.shape[1],
    }
