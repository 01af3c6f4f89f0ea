"""From a ranking to named lists: what may be shown, the exact top k, titles, labels and reasons.

Notable, all our choices: equal scores go to the smaller row. An item of the merged list is credited to the interest
with the highest weight × probability for it: papers merge lists, but do not say whose an item is. The reason for an
interest is the items of the history nearest to the mean vector of its first items.

Shapes: N rows of the tables, D item dimension, K interests, H items of a history, k items of a list, n items looked
at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prismrec.artifacts.bundle import POPULARITY, CatalogueItem
from prismrec.serving.answers import DictionaryInterest, Reason, RecommendedInterest, RecommendedItem
from prismrec.serving.catalogue import Catalogue

if TYPE_CHECKING:
    from prismrec.models.item_rows import ItemRows
    from prismrec.models.rankers import InterestRanking
    from prismrec.retrieval.merging import Rule

DECIMALS = 6  # of scores and weights: what float32 holds, and no digits beyond it
LABEL_ITEMS = 10  # an interest without a label is named after the categories of this many items
REASON_ITEMS = 10  # first items of an interest that stand for it
REASONS = 3  # items of the history named as the reason for an interest
NEW_EVERY = 5  # among popular items, each so-many-th is a new one
TOP_ITEMS = 10  # of an interest of the dictionary
NAMES = {POPULARITY: "Popular", "popular": "Popular", "new": "New", "now": "Now"}


class InterestNames(NamedTuple):
    """What a bundle says of interests.

    Attributes:
        labels: names for people, by id.
        cells: ids of the dictionary's interests, in the order of its cells.
        dictionary: its version.
    """

    labels: Mapping[str, str]
    cells: Mapping[str, int]
    dictionary: str | None


class Lists:
    """Makes the lists of one answer.

    Args:
        rows: tables of the items; None only where rankers come without them (tests).
    """

    def __init__(self, catalogue: Catalogue, rows: ItemRows | None, names: InterestNames) -> None:
        self.catalogue, self.rows, self.names = catalogue, rows, names

    def hidden(
        self, num_rows: int, allow: Sequence[str] = (), deny: Sequence[str] = (), categories: Sequence[str] = ()
    ) -> np.ndarray:
        """[N] what may not be shown."""
        catalogue = self.catalogue
        hidden_N = np.ones(num_rows, dtype=bool)
        hidden_N[: len(catalogue)] = ~catalogue.active_N
        for rows in (
            *([catalogue.places(allow)] if allow else []),
            *([catalogue.in_categories(categories)] if categories else []),
        ):
            others_N = np.ones(num_rows, dtype=bool)
            others_N[rows] = False
            hidden_N |= others_N
        hidden_N[catalogue.places(deny)] = True
        return hidden_N

    def interests(
        self, ranking: InterestRanking, hidden_N: np.ndarray, k: int, met: np.ndarray, titles: Mapping[int, str]
    ) -> list[RecommendedInterest]:
        """Each interest with its own list and reasons.

        Args:
            hidden_N: columns of the ranking that may not be shown.
            met: rows of the history.
            titles: of those among them that are guests.
        """
        scores_KN = ranking.interest_scores_KN
        best_K = top_k(np.where(hidden_N, -np.inf, scores_KN), max(k, LABEL_ITEMS))
        rows_K = [ranking.rows_of(best) for best in best_K]
        nearest_K = _nearest(self.rows, np.unique(met), rows_K)
        weights_K = ranking.weights_K.tolist()
        return [
            RecommendedInterest(
                name,
                self._label(name, rows),
                round(weight, DECIMALS),
                self.names.dictionary if name in self.names.cells else None,
                [self._reason(row, titles) for row in nearest],
                self._items(rows[:k], scores_N[best[:k]]),
            )
            for name, weight, best, rows, nearest, scores_N in zip(
                ranking.labels_K, weights_K, best_K, rows_K, nearest_K, scores_KN, strict=True
            )
        ]

    def merged(
        self, ranking: InterestRanking, hidden_N: np.ndarray, k: int, diversity: float, rule: Rule = "likelihood"
    ) -> list[RecommendedItem]:
        """One list of all interests; see `prismrec.retrieval.merging` for diversity, which turns the likelihood's."""
        scores_N = np.where(hidden_N, -np.inf, ranking.scores_N)
        names = [*ranking.labels_K, None]
        if diversity > 0:
            import torch

            from prismrec.retrieval.merging import diversified

            owners_N = _owners(ranking, slice(None))
            turned_1N = diversified(torch.from_numpy(scores_N)[None], torch.from_numpy(owners_N)[None], diversity)
            (best,) = top_k(turned_1N.numpy(), k)
        elif rule != "likelihood":
            import torch

            from prismrec.retrieval.merging import listed

            joint_KN = np.where(hidden_N, -np.inf, _claims(ranking, slice(None)))
            (best,) = top_k(listed(rule, torch.from_numpy(joint_KN)[None], torch.from_numpy(scores_N)[None]).numpy(), k)
        else:
            (best,) = top_k(scores_N[None], k)
        owned = [names[owner] for owner in _owners(ranking, best)]
        return self._items(ranking.rows_of(best), ranking.scores_N[best], owned)

    def dictionary(self, cells_N: np.ndarray, counts_N: np.ndarray) -> list[DictionaryInterest]:
        """The dictionary's interests that have items, those of most items first."""
        rows_n = np.flatnonzero(self.catalogue.active_N)
        rows_n = rows_n[np.lexsort((rows_n, -counts_N[rows_n], cells_N[rows_n]))]  # by cell, the most popular first
        cells_n, found = cells_N[rows_n], []
        for name, cell in self.names.cells.items():
            own = slice(*np.searchsorted(cells_n, [cell, cell + 1]))
            if len(best := rows_n[own][:TOP_ITEMS]):
                tops = [self._reason(index, {}) for index in best.tolist()]
                found.append(DictionaryInterest(name, self._label(name, best), own.stop - own.start, tops))
        return sorted(found, key=lambda interest: -interest.items)

    def best(self, scores_N: np.ndarray, hidden_N: np.ndarray, k: int) -> list[RecommendedItem]:
        """The k best items that may be shown."""
        (best,) = top_k(np.where(hidden_N, -np.inf, scores_N)[None], k)
        return self._items(best, scores_N[best])

    def _items(
        self, rows_k: np.ndarray, scores_k: np.ndarray, interests: Sequence[str | None] | None = None
    ) -> list[RecommendedItem]:
        """Items with their titles and scores, and the interest each is credited to, if any."""
        items = (self.catalogue.items[row] for row in rows_k.tolist())
        return [
            RecommendedItem(item.item_id, item.title, round(score, DECIMALS), interest)
            for item, score, interest in zip(items, scores_k.tolist(), interests or [None] * len(rows_k), strict=True)
        ]

    def _reason(self, row: int, titles: Mapping[int, str]) -> Reason:
        if row in titles:
            return Reason(None, titles[row])
        item = self.catalogue.items[row]
        return Reason(item.item_id, item.title)

    def _label(self, name: str, best: np.ndarray) -> str:
        """The bundle's name of an interest, or the two commonest categories of its first items, or its id."""
        if known := self.names.labels.get(name) or NAMES.get(name):
            return known
        return _common_categories(self.catalogue.items[index] for index in best[:LABEL_ITEMS]) or name


def _common_categories(items: Iterable[CatalogueItem]) -> str:
    """The two commonest categories of some items, or nothing where items have none."""
    counts = Counter(chain.from_iterable(item.categories for item in items))
    return ", ".join(sorted(counts, key=lambda category: (-counts[category], category))[:2])


def _claims(ranking: InterestRanking, items: np.ndarray | slice) -> np.ndarray:
    """Log P(k, i | u) of the interests shown: [K, n]."""
    with np.errstate(divide="ignore"):
        claims_Kn: np.ndarray = ranking.interest_scores_KN[:, items] + np.log(ranking.weights_K)[:, None]
    return claims_Kn


def _owners(ranking: InterestRanking, items: np.ndarray | slice) -> np.ndarray:
    """Number of the interest with the largest claim on each item; K where none of those shown has one."""
    claims_Kn = _claims(ranking, items)
    return np.where(claims_Kn.max(0) > -np.inf, claims_Kn.argmax(0), len(claims_Kn))


def _nearest(rows: ItemRows | None, met: np.ndarray, best_K: Sequence[np.ndarray]) -> list[list[int]]:
    """For each interest, rows of a history's distinct items nearest to the mean vector of its first items."""
    if rows is None or not len(met):
        return [[] for _ in best_K]
    vectors_ND = rows.vectors_ND.numpy()
    means_KD = np.stack([vectors_ND[best[:REASON_ITEMS]].sum(0) for best in best_K])  # but for their lengths
    nearest_KH = np.argsort(-(means_KD @ vectors_ND[met].T), axis=1, kind="stable")[:, :REASONS]
    return [met[nearest].tolist() if len(best) else [] for best, nearest in zip(best_K, nearest_KH, strict=True)]


def with_newcomers(ranking: InterestRanking, catalogue: Catalogue) -> InterestRanking:
    """Popular items with added ones among them: nobody has touched these yet, so each takes a place by its age.

    The newest is taken to be as popular as the item before the first such place, and so on (our choice). Added items
    are an interest of their own.
    """
    added = np.flatnonzero(catalogue.active_N[catalogue.from_bundle :])[::-1] + catalogue.from_bundle
    scores_N = ranking.scores_N.copy()
    scores_N[added] = -np.inf
    popular_first = np.sort(scores_N[scores_N > -np.inf])[::-1]
    places = np.minimum((np.arange(len(added)) + 1) * (NEW_EVERY - 1) - 1, len(popular_first) - 1)
    new_N = np.full_like(scores_N, -np.inf)
    new_N[added] = popular_first[places]
    joint_2N = np.stack([scores_N, new_N])
    mass_2 = np.logaddexp.reduce(joint_2N, axis=1)
    merged_N = np.maximum(scores_N, new_N) - np.logaddexp.reduce(mass_2)
    weights_2 = np.exp(mass_2 - np.logaddexp.reduce(mass_2))
    return type(ranking)(merged_N, joint_2N - mass_2[:, None], weights_2, ["popular", "new"])


def top_k(scores_KN: np.ndarray, k: int) -> list[np.ndarray]:
    """Indices of each row's k highest scores, best first, equal ones by index; those at -inf never.

    Args:
        scores_KN: no NaN.
        k: at least 1.
    """
    size = scores_KN.shape[1]
    # Everything that ties with the k-th stays in, so that the index decides, not the partition.
    threshold_K = (
        np.partition(scores_KN, size - k, axis=1)[:, size - k] if k < size else np.full(len(scores_KN), -np.inf)
    )
    best_K = []
    for scores_N, threshold in zip(scores_KN, threshold_K, strict=True):
        chosen = np.flatnonzero(scores_N >= threshold if threshold > -np.inf else scores_N > -np.inf)
        best_K.append(chosen[np.argsort(-scores_N[chosen], kind="stable")][:k])
    return best_K
