"""The engine: a history of item ids in, interests with titled items out. It knows no web server.

A ranker (`prismrec.models.rankers`) scores the whole catalogue; the engine translates ids, leaves out what
must not be shown, picks the exact top k and gives everything a name.

Notable: unknown ids are ignored and reported, and a history of which nothing is known gets popular items
and a note that says so. Equal scores go to the smaller item index. An item of the merged list is credited
to the interest with the highest weight × probability for it, our choice: papers merge lists, but do not
say whose an item is. No kedro, no polars; torch comes with the rankers that need it.

Shapes: N items of the catalogue, K interests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prismrec.artifacts.bundle import MEND, POPULARITY, CatalogueItem, Versions, read_bundle
from prismrec.errors import UserError

if TYPE_CHECKING:
    from prismrec.models.rankers import InterestRanking, ServedRanker

DECIMALS = 6  # of scores and weights: what float32 holds, and no digits beyond it
LABEL_ITEMS = 10  # an interest without a label is named after the categories of this many items
EMPTY_NOTE = "The history is empty: these are the most popular items."
UNKNOWN_NOTE = "The catalogue knows no item of the history: these are the most popular items."


class UnknownModel(UserError):
    """A request names a model that the bundle does not hold."""


@dataclass(frozen=True)
class RecommendedItem:
    """An item with its score in one list; `interest` only in the merged list."""

    item_id: str
    title: str
    score: float
    interest: str | None = None


@dataclass(frozen=True)
class RecommendedInterest:
    """One interest: stable id, name, share of all interests, and its own items, best first."""

    id: str
    label: str
    weight: float
    items: list[RecommendedItem]


@dataclass(frozen=True)
class Recommendation:
    """The answer to one history; see `prismrec.serving.types.RecommendResponse` for the fields."""

    interests: list[RecommendedInterest]
    items: list[RecommendedItem]
    unknown_items: list[str]
    model: str
    versions: Versions
    note: str | None


@dataclass(frozen=True)
class EngineDescription:
    """What is served: versions, the models a request may name, and the size of the catalogue."""

    bundle: str
    versions: Versions
    default_model: str
    models: list[str]
    items: int
    active_items: int


class Engine:
    """Answers requests from the rankers of one bundle.

    Args:
        items: the catalogue, in the order of the item indices.
        rankers: by name; one of them is `popularity`.
        default_model: the ranker for requests that name none.
        versions: content hashes, passed on with every answer.
        labels: names of interests by their id.
        bundle: version of the bundle as a whole.

    Raises:
        UserError: there is no popularity ranker, or no ranker called `default_model`.
    """

    def __init__(
        self,
        items: Sequence[CatalogueItem],
        rankers: Mapping[str, ServedRanker],
        default_model: str,
        versions: Versions,
        labels: Mapping[str, str],
        bundle: str,
    ) -> None:
        for needed in (POPULARITY, default_model):
            if needed not in rankers:
                raise UserError(f"This bundle has no model {needed!r}.", ", ".join(rankers) or "no models", MEND)
        self.rankers = rankers
        self.description = EngineDescription(
            bundle=bundle,
            versions=versions,
            default_model=default_model,
            models=sorted(rankers),
            items=len(items),
            active_items=sum(item.active for item in items),
        )
        self._items = items
        self._labels = labels
        self._index = {item.item_id: item.item_index for item in items}
        self._inactive_N = ~np.array([item.active for item in items], dtype=bool)

    @classmethod
    def load(cls, folder: Path) -> Engine:
        """Verify a bundle and load its models.

        Raises:
            UserError: the bundle is damaged, incomplete or mixed; the text names the file and the reason.
        """
        from prismrec.models.loading import load_rankers

        bundle = read_bundle(folder)
        manifest = bundle.manifest
        return cls(
            bundle.items,
            load_rankers(folder),
            manifest.default_model,
            manifest.versions,
            bundle.labels,
            bundle.version,
        )

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        num_interests: int | None = None,
        exclude_seen: bool = True,
        model: str | None = None,
        timestamps: Sequence[int] = (),
        now: int | None = None,
    ) -> Recommendation:
        """Recommend for a raw history.

        Args:
            history: item ids, oldest first; unknown ones are ignored and reported.
            k: items of each list; fewer where the catalogue has no more.
            num_interests: interests at most; the model's own number by default.
            exclude_seen: leave the history's items out of every list.
            model: name of a ranker; the bundle's default if None.
            timestamps: seconds, one an event; none where they are unknown.
            now: seconds, when the recommendation is asked for; counts only beside `timestamps`.

        Raises:
            UnknownModel: the bundle holds no such ranker.
        """
        name = model or self.description.default_model
        if name not in self.rankers:
            raise UnknownModel(
                f"There is no model {name!r}.",
                "model",
                f"Choose one of: {', '.join(self.description.models)}",
            )
        places = [place for place, item in enumerate(history) if item in self._index]
        known = np.array([self._index[history[place]] for place in places], dtype=np.int64)
        times = np.array([timestamps[p] for p in places], dtype=np.int64) if timestamps else None
        note = None
        if not len(known):
            name, note = POPULARITY, UNKNOWN_NOTE if history else EMPTY_NOTE
        ranking = self.rankers[name].rank(known, times, num_interests, now)
        hidden_N = self._inactive_N.copy()
        if exclude_seen:
            hidden_N[known] = True
        return Recommendation(
            interests=self._interests(ranking, hidden_N, k),
            items=self._merged(ranking, hidden_N, k),
            unknown_items=list(dict.fromkeys(item for item in history if item not in self._index)),
            model=name,
            versions=self.description.versions,
            note=note,
        )

    def warm_up(self) -> None:
        """Answer once with every ranker, so that the first user does not pay for lazy initialisation."""
        for name in self.rankers:
            self.recommend([self._items[0].item_id], model=name)

    def _interests(self, ranking: InterestRanking, hidden_N: np.ndarray, k: int) -> list[RecommendedInterest]:
        interests = []
        for scores_N, weight, name in zip(ranking.interest_scores_KN, ranking.weights_K, ranking.labels_K, strict=True):
            best = top_k(np.where(hidden_N, -np.inf, scores_N), k)
            items = [self._item(index, scores_N[index]) for index in best]
            label = self._labels.get(name) or self._common_categories(best[:LABEL_ITEMS]) or name
            interests.append(RecommendedInterest(name, label, round(float(weight), DECIMALS), items))
        return interests

    def _merged(self, ranking: InterestRanking, hidden_N: np.ndarray, k: int) -> list[RecommendedItem]:
        best = top_k(np.where(hidden_N, -np.inf, ranking.scores_N), k)
        with np.errstate(divide="ignore"):
            claims_Kk = ranking.interest_scores_KN[:, best] + np.log(ranking.weights_K)[:, None]
        merged = []
        for index, claims_K in zip(best, claims_Kk.T, strict=True):
            owner = int(claims_K.argmax())
            interest = ranking.labels_K[owner] if claims_K[owner] > -np.inf else None
            merged.append(self._item(index, ranking.scores_N[index], interest))
        return merged

    def _item(self, index: int, score: float, interest: str | None = None) -> RecommendedItem:
        item = self._items[index]
        return RecommendedItem(item.item_id, item.title, round(float(score), DECIMALS), interest)

    def _common_categories(self, indices: Iterable[int]) -> str:
        """The two commonest categories of some items, or nothing where items have none."""
        counts = Counter(category for index in indices for category in self._items[index].categories)
        return ", ".join(sorted(counts, key=lambda category: (-counts[category], category))[:2])


def top_k(scores_N: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k highest scores, best first, equal ones by index; those at -inf never.

    Args:
        scores_N: no NaN.
        k: at least 1.
    """
    candidates = np.flatnonzero(scores_N > -np.inf)
    if len(candidates) > k:
        # Everything that ties with the k-th stays in, so that the index decides, not the partition.
        threshold = np.partition(scores_N[candidates], len(candidates) - k)[len(candidates) - k]
        candidates = candidates[scores_N[candidates] >= threshold]
    return candidates[np.argsort(-scores_N[candidates], kind="stable")][:k]
