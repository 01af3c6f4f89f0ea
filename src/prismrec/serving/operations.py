"""What the service can be asked: one typed operation a route, from which routes and OpenAPI document are made.

It knows neither HTTP nor BentoML: an operation takes the engine of the moment and a request that is valid already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import prismrec
from prismrec.serving.engine import Engine, Question
from prismrec.serving.types import (
    AddItemsRequest,
    Answer,
    BatchRequest,
    BatchResponse,
    InterestsResponse,
    ModelResponse,
    RecommendRequest,
    RecommendResponse,
    Request,
    SearchRequest,
    SearchResponse,
    SimilarRequest,
    SimilarResponse,
)


@dataclass(frozen=True)
class Operation:
    """A route, what it takes, and what it answers.

    Attributes:
        method: GET, POST or DELETE.
        path: with parameters in braces.
        summary: one line for the OpenAPI document.
        answer: gets the engine and the request, None where there is nothing to say.
        response: what it gives.
        request: of POST the JSON body, else the parameters of path and query by their names.
        together: answers several requests at once, each with what it gets or with its own error; they are then
            answered together as they wait.
        errors: statuses that it may answer beside those of every operation, with when.
    """

    method: str
    path: str
    summary: str
    answer: Callable[[Engine, Any], Answer]
    response: type[Answer]
    request: type[Request] | None = None
    together: Callable[[Engine, Sequence[Any]], list[Answer | Exception]] | None = None
    errors: Mapping[int, str] = field(default_factory=dict)


def recommend(engine: Engine, request: RecommendRequest) -> RecommendResponse:
    """Answer one history."""
    return RecommendResponse.of(engine.recommend(**request.arguments()))


def recommend_together(engine: Engine, requests: Sequence[RecommendRequest]) -> list[Answer | Exception]:
    """Answer several histories."""
    found = engine.recommend_all([Question(**one.arguments()) for one in requests])
    return [one if isinstance(one, Exception) else RecommendResponse.of(one) for one in found]


def _recommend_batch(engine: Engine, request: BatchRequest) -> BatchResponse:
    found = recommend_together(engine, request.requests)
    for one in found:
        if isinstance(one, Exception):
            raise one
    return BatchResponse.model_construct(responses=found)


def _similar_items(engine: Engine, request: SimilarRequest) -> SimilarResponse:
    item = request.item_id if request.item is None else request.item.content()
    assert item is not None
    return SimilarResponse.of({"items": engine.similar(item, request.k)})


def _interests(engine: Engine, _: None) -> InterestsResponse:
    return InterestsResponse.of({"dictionary": engine.versions.dictionary, "interests": engine.interests()})


def describe(engine: Engine, _: None) -> ModelResponse:
    """Say what is served."""
    return ModelResponse(prismrec=prismrec.__version__, **_shallow(engine.description))


def _search(engine: Engine, request: SearchRequest) -> SearchResponse:
    catalogue = engine.catalogue
    by_id = [catalogue.items[row] for row in catalogue.places(request.id)]
    found = by_id if request.id else catalogue.search(request.query, request.limit)
    items = [{"item_id": item.item_id, "title": item.title, "categories": list(item.categories)} for item in found]
    return SearchResponse.of({"items": items})


def _add_items(engine: Engine, request: AddItemsRequest) -> ModelResponse:
    from prismrec.serving.added_items import AddedItem

    items = [AddedItem(one.item_id, one.title, one.description, tuple(one.categories)) for one in request.items]
    return ModelResponse(prismrec=prismrec.__version__, **_shallow(engine.add_items(items)))


def _shallow(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in asdict(record)}


NO_TEXTS = {501: "The bundle carries no text encoder, and the request has a text."}
ENGINE_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/recommend",
        "Interests with items, and one list, for a history.",
        recommend,
        RecommendResponse,
        RecommendRequest,
        recommend_together,
        NO_TEXTS,
    ),
    Operation(
        "POST",
        "/recommend_batch",
        "The same for several histories at once.",
        _recommend_batch,
        BatchResponse,
        BatchRequest,
        errors=NO_TEXTS,
    ),
    Operation(
        "POST",
        "/similar_items",
        "Items like one of the catalogue, or like a text.",
        _similar_items,
        SimilarResponse,
        SimilarRequest,
        errors={404: "The catalogue has no such item.", **NO_TEXTS},
    ),
    Operation(
        "GET",
        "/interests",
        "The interests of the dictionary.",
        _interests,
        InterestsResponse,
        errors={404: "The bundle has no dictionary."},
    ),
    Operation("GET", "/model", "What is served: models, versions, sizes.", describe, ModelResponse),
    Operation("GET", "/items", "Items by words of their titles.", _search, SearchResponse, SearchRequest),
    Operation(
        "POST",
        "/items",
        "Add items by their texts, or change them: recommended from the next request on.",
        _add_items,
        ModelResponse,
        AddItemsRequest,
        errors={
            404: "No folder was set up for added items.",
            409: "Too many were added already, or those on disk are damaged.",
            **NO_TEXTS,
        },
    ),
)
