"""Exact top-k over the whole catalogue, with what a user has seen left out.

Notable: seen items are masked by one scatter a chunk, never by a dense user × item table; equal scores go to the
smaller item index, so that lists do not depend on the machine. Sorting is kept off the catalogue: items are taken in
groups of neighbours, and only the k groups with the best maxima are looked into. An item outside them has k items
before it (those maxima), so nothing is lost; ties between groups go to the earlier one for the same reason.

Shapes: B rows, N items, G groups of GROUP neighbouring items, J blocks of H groups or M items, C candidates, k items
of a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from prismrec.models.events import EventBatch

GROUP = 64  # items a group: the cost of finding groups (falls with it) against that of looking into them (grows)


class Best(NamedTuple):
    """Lists, best first; equal scores by index."""

    items_Bk: Tensor  # int64
    scores_Bk: Tensor


def exclude(scores_BN: Tensor, seen: EventBatch, recommendable_N: Tensor) -> Tensor:
    """The scores with -inf at every seen item and at items that may not be recommended; a new tensor."""
    # Not `masked_fill`, which reads its mask once a row and takes ten times the copy.
    scores_BN = scores_BN.clone().index_fill_(1, (~recommendable_N).nonzero()[:, 0], -torch.inf)
    if seen.items_BL.shape[1] == 0:
        return scores_BN
    # A padded place masks the row's own newest item once more, which changes nothing; a row without any event has
    # no item to repeat and is written back unchanged.
    item_BL = torch.where(seen.mask_BL, seen.items_BL, seen.items_BL[:, -1:])
    kept_BL = scores_BN.gather(1, item_BL)
    has_event_B1 = seen.mask_BL.any(1, keepdim=True)
    return scores_BN.scatter_(1, item_BL, torch.where(has_event_B1, -torch.inf, kept_BL))


def top_k(scores_BN: Tensor, k: int) -> Tensor:
    """Indices of the k best items of every row, best first, at most N: [B, k] int64. No score may be NaN."""
    num_items = scores_BN.shape[1]
    k = min(k, num_items)
    if num_items < 2 * k * GROUP:  # half of the groups would be looked into: no gain
        return best_at_least(scores_BN, kth_value(scores_BN, k), k).items_Bk
    whole = num_items // GROUP
    scores_BGM = scores_BN[:, : whole * GROUP].reshape(-1, whole, GROUP)
    group_Bk, threshold_B1 = _best_groups(scores_BGM.amax(2), k)
    row_B1 = torch.arange(len(scores_BN), device=scores_BN.device)[:, None]
    rest_BR = scores_BN[:, whole * GROUP :]  # the last items, no whole group: always looked into
    candidates_BC = torch.cat([scores_BGM[row_B1, group_Bk].flatten(1), rest_BR], dim=1)
    return _items(F.pad(group_Bk, (0, 1), value=whole), best_at_least(candidates_BC, threshold_B1, k)).items_Bk


def group_maxima(scores_BN: Tensor, out_BG: Tensor) -> None:
    """Write the best score of every GROUP neighbours to `out_BG`; N is a multiple of GROUP."""
    torch.amax(scores_BN.view(len(scores_BN), -1, GROUP), 2, out=out_BG)


def best_of_groups(scores_JBM: Tensor, maxima_JBH: Tensor, k: int) -> Best:
    """The k best of every row, looking only into the k groups with the best maxima; k is at most G = J * H.

    Args:
        scores_JBM: contiguous; J blocks of M = H * GROUP neighbouring items.
    """
    blocks, rows, per_block = maxima_JBH.shape
    maxima_BG = maxima_JBH.transpose(0, 1).reshape(rows, blocks * per_block)
    group_Bk, threshold_B1 = _best_groups(maxima_BG, k)
    row_B1 = torch.arange(rows, device=group_Bk.device)[:, None]
    place_Bk = (group_Bk // per_block * rows + row_B1) * per_block + group_Bk % per_block
    candidates_BC = scores_JBM.view(-1, GROUP).index_select(0, place_Bk.view(-1)).view(rows, k * GROUP)
    return _items(group_Bk, best_at_least(candidates_BC, threshold_B1, k))


def _best_groups(maxima_BG: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k groups of every row that have the best maxima, by index, and the least of these maxima: [B, k], [B, 1].

    At least k items of the chosen groups reach it: the maxima.
    """
    threshold_B1 = kth_value(maxima_BG, k)
    chosen_BG = _trim_ties(maxima_BG, maxima_BG >= threshold_B1, threshold_B1, k)
    return chosen_BG.nonzero()[:, 1].view(-1, k), threshold_B1


def _items(groups_BG: Tensor, best: Best) -> Best:
    """The best of some groups' items, whose columns become item indices."""
    return Best(groups_BG.gather(1, best.items_Bk // GROUP) * GROUP + best.items_Bk % GROUP, best.scores_Bk)


def best_at_least(scores_BN: Tensor, threshold_B1: Tensor, k: int) -> Best:
    """The k best of every row, of which at least k reach the row's threshold."""
    chosen_BN = scores_BN >= threshold_B1
    count_B = chosen_BN.sum(1)
    if count_B.amax() > 2 * k:  # many ties: they would fill the table below
        chosen_BN = _trim_ties(scores_BN, chosen_BN, threshold_B1, k)
        count_B = chosen_BN.sum(1)
    row_C, column_C = chosen_BN.nonzero(as_tuple=True)  # by row, then by index, as a stable sort wants it
    start_B = count_B.cumsum(0) - count_B
    place_C = torch.arange(len(row_C), device=row_C.device) - start_B[row_C]
    table_BW = scores_BN.new_full((len(count_B), int(count_B.max())), -torch.inf)  # padding comes last in a row
    table_BW[row_C, place_C] = scores_BN[row_C, column_C]
    scores_BW, order_BW = table_BW.sort(dim=1, descending=True, stable=True)
    return Best(column_C[start_B[:, None] + order_BW[:, :k]], scores_BW[:, :k])


def kth_value(scores_BN: Tensor, k: int) -> Tensor:
    """[B, 1] the k-th best score of every row."""
    return scores_BN.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)


def _trim_ties(scores_BN: Tensor, chosen_BN: Tensor, threshold_B1: Tensor, k: int) -> Tensor:
    """Of those chosen that equal the threshold, only the first ones, as many as k leaves room for."""
    if chosen_BN.sum(1).amax() <= k:
        return chosen_BN
    above_BN, tied_BN = scores_BN > threshold_B1, scores_BN == threshold_B1
    room_B1 = k - above_BN.sum(1, keepdim=True)
    return above_BN | (tied_BN & (tied_BN.cumsum(1, dtype=torch.int32) <= room_B1))
