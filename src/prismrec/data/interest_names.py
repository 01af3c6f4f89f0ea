"""Names of dictionary interests for people: what is specific to a cell's items (our choice).

A cell is named after the two categories that are most over-represented in it, and where that is no name of its own,
after its most popular title as well; where items have no categories, after that title alone.

Shapes: N items, G cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

MIN_SHARE = 0.2  # a category names a cell only if at least this share of its items has it


def interest_names(
    cells_N: np.ndarray,
    categories_N: Sequence[Sequence[str] | None],
    titles_N: Sequence[str],
    counts_N: np.ndarray,
) -> dict[int, str]:
    """A name for every cell that holds an item.

    Args:
        cells_N: each item's cell.
        categories_N: each item's categories.
        titles_N: each item's title.
        counts_N: each item's number of events.

    Returns:
        cell → name.
    """
    overall = Counter(category for categories in categories_N for category in categories or ())
    members: dict[int, list[int]] = {}
    for item, cell in enumerate(cells_N):
        members.setdefault(int(cell), []).append(item)
    specific = {cell: _specific(items, categories_N, overall, len(cells_N)) for cell, items in sorted(members.items())}
    used = Counter(specific.values())
    names = {}
    for cell, name in specific.items():
        title = titles_N[max(members[cell], key=lambda item: (counts_N[item], -item))]
        names[cell] = title if not name else name if used[name] == 1 else f"{name}: {title}"
    return names


def _specific(items: list[int], categories_N: Sequence[Sequence[str] | None], overall: Counter[str], total: int) -> str:
    inside = Counter(category for item in items for category in categories_N[item] or ())
    share = {category: count / len(items) for category, count in inside.items()}
    lift = {
        category: value * np.log(value * total / overall[category])
        for category, value in share.items()
        if value >= MIN_SHARE and value * total > overall[category]
    }
    return ", ".join(sorted(lift, key=lambda category: (-lift[category], category))[:2])
