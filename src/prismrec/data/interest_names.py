"""Names of dictionary interests for people: what is specific to a cell's items (our choice).

A cell is named after the two categories that are most over-represented in it; where none is, after the two words of
its titles that are. Where that is no name of its own, its most popular title goes with it, and where there are neither
such categories nor words, that title names it alone.

Shapes: N items, G cells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

MIN_SHARE = 0.2  # a category or word names a cell only if at least this share of its items has it
MIN_ITEMS = 2  # and a word, if so many of them have it
WORD = re.compile(r"[^\W\d_]{3,}")  # three letters or more


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
    words_N = [set(WORD.findall(title.lower())) for title in titles_N]
    known_N: Sequence[Collection[str]] = [known or () for known in categories_N]
    terms: list[tuple[Sequence[Collection[str]], int]] = [(known_N, 1), (words_N, MIN_ITEMS)]
    overall = [Counter(term for of_item in terms_N for term in of_item) for terms_N, _ in terms]
    members: dict[int, list[int]] = {}
    for item, cell in enumerate(cells_N):
        members.setdefault(int(cell), []).append(item)
    specific = {}
    for cell, items in sorted(members.items()):
        found = (
            _specific(items, terms_N, counted, len(cells_N), fewest)
            for (terms_N, fewest), counted in zip(terms, overall, strict=True)
        )
        specific[cell] = next(filter(None, found), "")
    used = Counter(specific.values())
    names = {}
    for cell, name in specific.items():
        title = titles_N[max(members[cell], key=lambda item: (counts_N[item], -item))]
        names[cell] = title if not name else name if used[name] == 1 else f"{name}: {title}"
    return names


def _specific(
    items: list[int], terms_N: Sequence[Collection[str]], overall: Counter[str], total: int, fewest: int
) -> str:
    inside = Counter(term for item in items for term in terms_N[item])
    share = {term: count / len(items) for term, count in inside.items() if count >= fewest}
    lift = {
        term: value * np.log(value * total / overall[term])
        for term, value in share.items()
        if value >= MIN_SHARE and value * total > overall[term]
    }
    return ", ".join(sorted(lift, key=lambda term: (-lift[term], term))[:2])
