"""Exact top-k over the whole catalogue, with what a user has seen left out.

Notable: seen items are masked by one scatter a chunk, never by a dense user × item table; equal scores go to the
smaller item index, so that lists do not depend on the machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prismrec.models.events import EventBatch


def exclude(scores_BN: Tensor, seen: EventBatch, recommendable_N: Tensor) -> Tensor:
    """The scores with -inf at every seen item and at items that may not be recommended; a new tensor."""
    scores_BN = scores_BN.masked_fill(~recommendable_N, -torch.inf)
    if seen.items_BL.shape[1] == 0:
        return scores_BN
    # A padded place masks the row's own newest item once more, which changes nothing; a row without any event has
    # no item to repeat and is written back unchanged.
    item_BL = torch.where(seen.mask_BL, seen.items_BL, seen.items_BL[:, -1:])
    kept_BL = scores_BN.gather(1, item_BL)
    has_event_B1 = seen.mask_BL.any(1, keepdim=True)
    return scores_BN.scatter(1, item_BL, torch.where(has_event_B1, -torch.inf, kept_BL))


def top_k(scores_BN: Tensor, k: int) -> Tensor:
    """Indices of the k best items of every row, best first, at most N: [B, k] int64. No score may be NaN."""
    k = min(k, scores_BN.shape[1])
    threshold_B1 = scores_BN.topk(k, dim=1).values[:, -1:]
    above_BN, tied_BN = scores_BN > threshold_B1, scores_BN == threshold_B1
    room_B1 = k - above_BN.sum(1, keepdim=True)
    chosen_BN = above_BN | (tied_BN & (tied_BN.cumsum(1) <= room_B1))
    items_Bk = chosen_BN.nonzero()[:, 1].view(-1, k)  # exactly k a row, by index
    order_Bk = scores_BN.gather(1, items_Bk).sort(dim=1, descending=True, stable=True).indices
    return items_Bk.gather(1, order_Bk)
