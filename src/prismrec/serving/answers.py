"""What the engine answers: plain records, which `prismrec.serving.types` describes field by field."""

from __future__ import annotations

from dataclasses import dataclass

from prismrec.artifacts.bundle import Versions


@dataclass(frozen=True)
class RecommendedItem:
    """An item with its score in one list; `interest` only in the merged list."""

    item_id: str
    title: str
    score: float
    interest: str | None = None


@dataclass(frozen=True)
class Reason:
    """An item of the history; without an id where it came as a text."""

    item_id: str | None
    title: str


@dataclass(frozen=True)
class RecommendedInterest:
    """One interest: stable id, name, share of all interests, its own items, best first, and what speaks for it.

    `dictionary` is the version of the dictionary whose cell the interest is, None for any other interest.
    """

    id: str
    label: str
    weight: float
    dictionary: str | None
    reasons: list[Reason]
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
class DictionaryInterest:
    """A cell of the interest dictionary that has items."""

    id: str
    label: str
    items: int
    top_items: list[Reason]


@dataclass(frozen=True)
class EngineDescription:
    """What is served: versions, the models a request may name, and the size of the catalogue.

    `generation` is the number of the additions that are served, 0 for none; `texts` says whether items may be
    given by their texts, `times` whether the times of events and requests count.
    """

    bundle: str
    versions: Versions
    default_model: str
    models: list[str]
    items: int
    active_items: int
    added_items: int
    generation: int
    texts: bool
    times: bool
