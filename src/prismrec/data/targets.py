"""Users' target events as padded lists of distinct items, with or without those that are in the history.

Validation while training and evaluation share it, so that both count the same targets. Notable: whether a target is
in its user's history is one search among sorted (user, item) codes for a block of users; memory is bounded by the
block, nothing loops over users. numpy alone.

Shapes: U users, C users asked for, E events in all, T targets of the user who has most.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BLOCK = 4096  # users looked at together


class Targets(NamedTuple):
    """Distinct target items of C users, in the order of their first event; users may be left with none."""

    items_CT: Ints  # 0 where padded
    mask_CT: Bools  # False is padding
    seen: int  # targets that are in their user's history, whether kept or left out


def distinct_targets(
    offsets: Ints, items: NDArray[np.integer], users_C: Ints, starts_C: Ints, ends_C: Ints, keep_seen: bool
) -> Targets:
    """The items of events [start, end) of each user.

    Args:
        offsets: [U + 1] where each user's events start.
        items: [E] item indices, oldest first within a user.
        users_C: rows of the users.
        starts_C: first target of each; everything before it is the history.
        ends_C: position after the last target.
        keep_seen: whether a target that is in the history stays.
    """
    blocks, seen = [], 0
    num_items = int(items.max(initial=0)) + 1
    for first in range(0, len(users_C), BLOCK):
        part = slice(first, first + BLOCK)
        begin_B = offsets[users_C[part]]
        row_H, item_H = _slices(items, begin_B, begin_B + starts_C[part])
        row_T, item_T = _slices(items, begin_B + starts_C[part], begin_B + ends_C[part])
        code_T = row_T * num_items + item_T
        kept = np.sort(np.unique(code_T, return_index=True)[1])
        in_history = np.isin(code_T[kept], row_H * num_items + item_H)
        seen += int(in_history.sum())
        kept = kept if keep_seen else kept[~in_history]
        blocks.append(_padded(row_T[kept], item_T[kept], len(begin_B)))
    width = max((block.shape[1] for block, _ in blocks), default=0)
    items_CT = np.zeros((len(users_C), width), np.int64)
    mask_CT = np.zeros(items_CT.shape, np.bool_)
    for number, (item_BT, mask_BT) in enumerate(blocks):
        rows, columns = slice(number * BLOCK, number * BLOCK + len(item_BT)), slice(0, item_BT.shape[1])
        items_CT[rows, columns], mask_CT[rows, columns] = item_BT, mask_BT
    return Targets(items_CT, mask_CT, seen)


def _slices(items: NDArray[np.integer], begins_B: Ints, ends_B: Ints) -> tuple[Ints, Ints]:
    """Row and item of every event of the slices, slice after slice."""
    length_B = ends_B - begins_B
    row = np.repeat(np.arange(len(length_B)), length_B)
    shift_B = begins_B - (np.cumsum(length_B) - length_B)
    return row, items[np.arange(len(row)) + shift_B[row]].astype(np.int64)


def _padded(row: Ints, item: Ints, rows: int) -> tuple[Ints, Bools]:
    """Entries sorted by row as a left-aligned table."""
    count_B = np.bincount(row, minlength=rows)
    mask_BT = np.arange(count_B.max(initial=0)) < count_B[:, None]
    item_BT = np.zeros(mask_BT.shape, np.int64)
    item_BT[mask_BT] = item
    return item_BT, mask_BT
