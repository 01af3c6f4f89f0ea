"""The items that are served: ids, titles and categories by row, and search in the titles.

A catalogue never changes; items that are added give a new one. Search folds case and accents (our choice: NFKD without
marks, then `casefold`), wants every word of the query somewhere in the title, and lists titles that start with the
query first, then those where a word does, then all others; the most popular first within each.

Shapes: N rows of items, without the spare rows of `prismrec.models.item_rows`.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from prismrec.artifacts.bundle import CatalogueItem


class Catalogue:
    """Items by row.

    Args:
        items: in the order of their rows.
        counts_N: events of each item, for the order of search results.
        from_bundle: how many of them the bundle itself holds; the others were added, oldest first.
    """

    def __init__(self, items: Sequence[CatalogueItem], counts_N: np.ndarray, from_bundle: int) -> None:
        self.items, self.from_bundle = list(items), from_bundle
        self.rows = {item.item_id: item.item_index for item in self.items}
        self.active_N = np.array([item.active for item in self.items], dtype=bool)
        self._folded = [folded(item.title) for item in self.items]
        self._popular_first = np.argsort(-np.asarray(counts_N), kind="stable").tolist()
        self._by_category: dict[str, list[int]] = defaultdict(list)
        for item in self.items:
            for category in item.categories:
                self._by_category[category].append(item.item_index)

    def __len__(self) -> int:
        return len(self.items)

    def with_items(self, changed: Sequence[CatalogueItem], counts_N: np.ndarray) -> Catalogue:
        """A catalogue with these items added or replaced, by their rows."""
        items = list(self.items)
        for item in changed:
            if item.item_index < len(items):
                items[item.item_index] = replace(item, active=True)
            else:
                items.append(item)
        return Catalogue(items, counts_N, self.from_bundle)

    def is_added(self, item_id: str) -> bool:
        """Whether the bundle itself does not hold the item."""
        return self.rows[item_id] >= self.from_bundle

    def places(self, item_ids: Collection[str]) -> list[int]:
        """Rows of the ids that are known."""
        return [self.rows[item_id] for item_id in item_ids if item_id in self.rows]

    def in_categories(self, categories: Collection[str]) -> list[int]:
        """Rows of the items of one of these categories at least."""
        return sorted({row for category in categories for row in self._by_category.get(category, ())})

    def search(self, query: str, limit: int) -> list[CatalogueItem]:
        """Active items whose titles have all words of the query, best first; without a query the most popular ones."""
        wanted = folded(query)
        words = wanted.split()
        found: tuple[list[int], list[int], list[int]] = ([], [], [])  # by how well the title fits
        for row in self._popular_first:
            title = self._folded[row]
            if self.active_N[row] and all(word in title for word in words):
                found[_fit(title, wanted, words)].append(row)
                if len(found[0]) == limit:
                    break
        return [self.items[row] for row in (found[0] + found[1] + found[2])[:limit]]


def _fit(title: str, wanted: str, words: list[str]) -> int:
    """0: the title starts with the query; 1: each of its words starts a word; 2: any other."""
    if title.startswith(wanted):
        return 0
    return 1 if all(f" {word}" in f" {title}" for word in words) else 2


def folded(text: str) -> str:
    """Without case, accents and doubled spaces."""
    plain = "".join(mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))
    return " ".join(plain.casefold().split())
