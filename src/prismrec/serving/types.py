"""Requests and answers of the service: limits, examples, and refusals that a person can act on.

Our choice: strict types (an item id is a string, `"10"` is no number) and no unknown fields, so that a misspelt option
is never silently unused. A refusal says the field, the value it had, and what is allowed. Long wrong input gives one
error, not ten thousand.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from prismrec.artifacts.bundle import Versions
from prismrec.models.item_text import NewItem

MAX_HISTORY = 10_000
MAX_FILTER = 10_000
MAX_TEXTS = 100  # as many spare rows as the engine keeps
MAX_BATCH = 64
MAX_ID_LENGTH = 256
MAX_TITLE_LENGTH = 1_000
MAX_TEXT_LENGTH = 10_000
MAX_CATEGORIES = 100
MAX_K = 200
MAX_INTERESTS = 16
MAX_FOUND = 100
SHOWN_LENGTH = 60
ID_KIND, TEXT_KIND = "constrained-str", "TextItem"  # pydantic's names of the two kinds of a history's entries
RULE = "rule_"  # types of our own errors start so: their texts say everything

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Category = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Kind = Annotated[str, Field(max_length=MAX_ID_LENGTH)]
Title = Annotated[str, Field(min_length=1, max_length=MAX_TITLE_LENGTH)]
Timestamp = Annotated[int, Field(ge=0, lt=2**40)]


class Problem(BaseModel):
    """What is wrong with one field."""

    loc: list[int | str] = Field(description="Path to the field; empty for the body as a whole.")
    msg: str = Field(description="The field, the value it had, and what is allowed.")
    type: str


class ErrorResponse(BaseModel):
    """Any answer that is none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": "k is 0; input should be greater than or equal to 1",
                    "detail": [
                        {
                            "loc": ["k"],
                            "msg": "k is 0; input should be greater than or equal to 1",
                            "type": "greater_than_equal",
                        }
                    ],
                }
            ]
        }
    )

    error: str = Field(description="One line for people.")
    detail: list[Problem] = []


class Refused(Exception):
    """A request that is not answered, with the status and the line that says why.

    Args:
        status: of HTTP.
        text: one line for people.
        field: what it is about, if one field is.
    """

    def __init__(self, status: int, text: str, field: str | None = None, problems: list[Problem] | None = None) -> None:
        super().__init__(text)
        self.status = status
        if problems is None:
            problems = [] if field is None else [Problem(loc=[field], msg=text, type=f"{RULE}{field}")]
        self.content = ErrorResponse(error=text, detail=problems)


class Request(BaseModel):
    """What all requests share: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


RequestT = TypeVar("RequestT", bound=Request)


class TextItem(Request):
    """An item that the catalogue may not have, by its text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"title": "Metropolis", "description": "A city of the future.", "categories": ["Sci-Fi"]}]
        }
    )

    title: Title
    description: str = Field(default="", max_length=MAX_TEXT_LENGTH)
    categories: list[Category] = Field(default=[], max_length=MAX_CATEGORIES)

    def content(self) -> NewItem:
        """What its vector is made from."""
        return NewItem(self.title, self.description, tuple(self.categories))


HistoryItem = ItemId | TextItem


class RecommendOptions(Request):
    """What is wanted, whoever's history it is for."""

    k: int = Field(default=10, ge=1, le=MAX_K, description="Items of each list.")
    num_interests: int | None = Field(
        default=None,
        ge=1,
        le=MAX_INTERESTS,
        description="Interests at most; the model's own number by default.",
    )
    exclude_seen: bool = Field(
        default=True, description="Leave out the items of the history, whatever the kinds of their events."
    )
    allow: Annotated[list[ItemId], FailFast()] = Field(
        default=[], max_length=MAX_FILTER, description="Only these items may be shown; all if empty."
    )
    deny: Annotated[list[ItemId], FailFast()] = Field(
        default=[], max_length=MAX_FILTER, description="These items are never shown."
    )
    categories: Annotated[list[Category], FailFast()] = Field(
        default=[], max_length=MAX_CATEGORIES, description="Items shown have one of these; any if empty."
    )
    diversity: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="From 0, the likeliest items, to 1, the interests' lists in turn.",
    )
    novelty: float = Field(
        default=0.0,
        ge=0.0,
        le=5.0,
        allow_inf_nan=False,
        description="From 0 on, how much interests that the history does not show gain. Models of dictionary interests "
        "have this dial; the note says where there is none.",
    )
    temperature: float = Field(
        default=1.0,
        ge=0.1,
        le=10.0,
        allow_inf_nan=False,
        description="Above 1 spreads the interests, below 1 sharpens them. The models that have the novelty dial have "
        "this one.",
    )
    model: str | None = Field(
        default=None,
        max_length=64,
        description="A model of the bundle, see GET /model; its default otherwise.",
    )


class RecommendRequest(RecommendOptions):
    """A user's history and how many recommendations are wanted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": ["1", "3114", "2355"], "k": 10},
                {
                    "history": ["1", {"title": "Metropolis", "categories": ["Sci-Fi"]}],
                    "timestamps": [978300760, 978302109],
                    "now": 978390000,
                    "categories": ["Drama", "Sci-Fi"],
                    "diversity": 0.3,
                },
            ]
        }
    )

    history: Annotated[list[HistoryItem], FailFast()] = Field(
        max_length=MAX_HISTORY,
        description="Item ids, or items by their text, oldest first. Unknown ids are ignored and reported; it may be "
        f"empty. At most {MAX_TEXTS} different items may come as texts.",
    )
    timestamps: Annotated[list[Timestamp], FailFast()] = Field(
        default=[],
        max_length=MAX_HISTORY,
        description="When each event happened, seconds since 1970 UTC; one for each, or none where times are unknown.",
    )
    events: Annotated[list[Kind], FailFast()] = Field(
        default=[],
        max_length=MAX_HISTORY,
        description="The kind of each event (view, purchase, …), or none. Kinds that training left out are left out.",
    )
    now: Timestamp | None = Field(
        default=None,
        description="When the recommendation is asked for, seconds since 1970 UTC, beside timestamps; what comes next "
        "in a session differs from what opens the next one. Unknown by default.",
    )

    @model_validator(mode="after")
    def _one_entry_an_event(self) -> Self:
        for name in ("timestamps", "events"):
            given = len(getattr(self, name))
            if given and given != len(self.history):
                raise PydanticCustomError(
                    f"{RULE}{name}_length",
                    "{name} has {given} entries, history has {events}; give one for each event, or none",
                    {"name": name, "given": given, "events": len(self.history)},
                )
        return self

    @model_validator(mode="after")
    def _few_texts(self) -> Self:
        _check_texts("history has", self.texts())
        return self

    @model_validator(mode="after")
    def _now_after_the_history(self) -> Self:
        if self.now is not None and self.history and not self.timestamps:
            raise PydanticCustomError(
                f"{RULE}now_alone", "now says nothing without timestamps; give those too, or leave it out"
            )
        if self.now is not None and self.timestamps and self.now < max(self.timestamps):
            raise PydanticCustomError(
                f"{RULE}now_too_early",
                "now is {now}, before the newest timestamp {newest}; give seconds since 1970 UTC for both",
                {"now": self.now, "newest": max(self.timestamps)},
            )
        return self

    def texts(self) -> set[NewItem]:
        """The different items that came as texts."""
        return {item.content() for item in self.history if isinstance(item, TextItem)}

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Engine.recommend`."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        fields["history"] = [item if isinstance(item, str) else item.content() for item in self.history]
        return fields


def _check_texts(who: str, texts: set[NewItem]) -> None:
    if len(texts) > MAX_TEXTS:
        raise PydanticCustomError(
            f"{RULE}texts",
            "{who} {given} different items as texts; at most {most} are allowed, give others by their ids",
            {"who": who, "given": len(texts), "most": MAX_TEXTS},
        )


class BatchRequest(Request):
    """Several users at once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"requests": [{"history": ["1", "3114"]}, {"history": []}]}]}
    )

    requests: Annotated[list[RecommendRequest], FailFast()] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        description=f"Each as for POST /recommend; at most {MAX_TEXTS} different items as texts in all of them.",
    )

    @model_validator(mode="after")
    def _few_texts(self) -> Self:
        _check_texts("the requests have", set().union(*(one.texts() for one in self.requests)))
        return self


class SimilarRequest(Request):
    """An item, by its id or by its text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"item_id": "1", "k": 10}, {"item": {"title": "Metropolis"}}]}
    )

    item_id: ItemId | None = Field(default=None, description="An item of the catalogue.")
    item: TextItem | None = Field(default=None, description="Any item, by its text.")
    k: int = Field(default=10, ge=1, le=MAX_K)

    @model_validator(mode="after")
    def _one_item(self) -> Self:
        if (self.item_id is None) == (self.item is None):
            raise PydanticCustomError(f"{RULE}one_item", "give item_id or item: one of the two")
        return self


class CatalogueEntry(TextItem):
    """An item to add to the catalogue, or to change there."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"item_id": "m1", "title": "Metropolis", "categories": ["Sci-Fi"]}]}
    )

    item_id: ItemId


class AddItemsRequest(Request):
    """Items to add or to change."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"item_id": "m1", "title": "Metropolis", "categories": ["Sci-Fi"]}]}]
        }
    )

    items: Annotated[list[CatalogueEntry], FailFast()] = Field(
        min_length=1,
        max_length=MAX_TEXTS,
        description="The last one counts where an id comes twice.",
    )


class SearchRequest(Request):
    """Items by words of their titles."""

    query: str = Field(
        default="",
        max_length=MAX_TITLE_LENGTH,
        description="Words or beginnings of words; case and accents do not count.",
    )
    limit: int = Field(default=20, ge=1, le=MAX_FOUND)
    id: list[ItemId] = Field(
        default=[], max_length=MAX_FOUND, description="These items instead of a search; unknown ids are left out."
    )


class Answer(BaseModel):
    """What all answers share: they are made from the engine's dataclasses."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, answer: Any) -> Self:
        """From what the engine gave."""
        return cls.model_validate(answer)


class Item(Answer):
    """A recommended item; scores compare within one list only."""

    item_id: str
    title: str
    score: float


class MergedItem(Item):
    """An item of the merged list, with the interest it came from."""

    interest: str | None = Field(
        description="Id of the interest that wants it most; null if that is none of those shown."
    )


class NamedItem(Answer):
    """An item of the history, or of the catalogue."""

    item_id: str | None = Field(description="Null for an item that came as a text.")
    title: str


class Interest(Answer):
    """One interest of the user, with its own list of items."""

    id: str = Field(description='Such as "refined-2", or the dictionary\'s cell "3-11".')
    label: str = Field(description="A name for people.")
    weight: float = Field(description="Share of the user's interest; all of them sum to 1.")
    dictionary: str | None = Field(description="Version of the dictionary it is a cell of; null for other interests.")
    reasons: list[NamedItem] = Field(description="Items of the history nearest to it.")
    items: list[Item]


class RecommendResponse(Answer):
    """Recommendations by interest, and merged into one list."""

    interests: list[Interest]
    items: list[MergedItem]
    unknown_items: list[str] = Field(description="Ids of the history that the catalogue does not know.")
    model: str = Field(description="The model that answered.")
    versions: Versions
    note: str | None = Field(description="What the reader should know about this answer.")


class BatchResponse(Answer):
    """One answer a request, in their order."""

    responses: list[RecommendResponse]


class SimilarResponse(Answer):
    """Items by their cosine, best first."""

    items: list[Item]


class DictionaryInterest(Answer):
    """An interest of the dictionary."""

    id: str
    label: str
    items: int = Field(description="Items of the catalogue that it has.")
    top_items: list[NamedItem] = Field(description="The most popular ones.")


class InterestsResponse(Answer):
    """The dictionary's interests, those of most items first."""

    dictionary: str | None
    interests: list[DictionaryInterest]


class ModelResponse(Answer):
    """What is served."""

    prismrec: str = Field(description="Version of the code.")
    bundle: str
    versions: Versions
    default_model: str
    models: list[str]
    items: int
    active_items: int
    added_items: int = Field(description="Items added since the bundle was made.")
    generation: int = Field(description="Number of the additions that are served, one more for each; 0: none.")
    texts: bool = Field(description="Whether items may be given by their texts.")
    times: bool = Field(description="Whether the times of events and requests count; if not, they are left out.")


class FoundItem(Answer):
    """An item of the catalogue."""

    item_id: str
    title: str
    categories: list[str]


class SearchResponse(Answer):
    """Items whose titles fit, best first."""

    items: list[FoundItem]


def parse(model: type[RequestT], body: bytes) -> RequestT:
    """A request from JSON.

    Raises:
        Refused: 400, with every field that is wrong.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error, model) from None


def parse_strings(model: type[RequestT], values: dict[str, str | list[str]]) -> RequestT:
    """A request from the parameters of a path and a query.

    Raises:
        Refused: 400, with every field that is wrong.
    """
    lists = {name for name, field in model.model_fields.items() if "list" in str(field.annotation)}
    fitting = {name: [value] if name in lists and isinstance(value, str) else value for name, value in values.items()}
    try:
        return model.model_validate(fitting, strict=False)  # `model_validate_strings` knows no lists
    except ValidationError as error:
        raise _refused(error, model) from None


def _refused(error: ValidationError, model: type[Request]) -> Refused:
    found = error.errors(include_url=False)
    meant = [problem for problem in found if not _is_of_the_other_kind(problem["loc"], problem["input"])]
    problems = [_explained(dict(problem), model) for problem in meant or found]
    return Refused(400, "; ".join(problem.msg for problem in problems[:3]), problems=problems)


def _is_of_the_other_kind(loc: tuple[int | str, ...], value: Any) -> bool:
    """Whether an entry of a history was meant as an id where this says what a text lacks, or the other way round."""
    kind = _kind_step(loc)
    if kind is None:
        return False
    if loc[kind] == ID_KIND:
        return isinstance(value, dict)
    return kind == len(loc) - 1 and not isinstance(value, dict)


def _kind_step(loc: tuple[int | str, ...]) -> int | None:
    """Where pydantic says which kind of entry of a history it means; a client's own keys may be called the same."""
    for step in range(2, len(loc)):
        if loc[step - 2] == "history" and isinstance(loc[step - 1], int) and loc[step] in (ID_KIND, TEXT_KIND):
            return step
    return None


def _explained(problem: dict[str, Any], model: type[Request]) -> Problem:
    kind = _kind_step(problem["loc"])
    loc = [step for place, step in enumerate(problem["loc"]) if place != kind]
    value, message = problem["input"], str(problem["msg"])
    where = ".".join(str(step) for step in loc) or "the body"
    if problem["type"].startswith(RULE):
        text = message
    elif problem["type"] == "missing":
        text = f"{where} is missing"
    elif problem["type"] == "extra_forbidden" and len(loc) > 1:
        text = f"{where} is no field there"
    elif problem["type"] == "extra_forbidden":
        needed_first = sorted(model.model_fields, key=lambda name: not model.model_fields[name].is_required())
        text = f"{where} is no field of the request; its fields are {', '.join(needed_first)}"
    elif problem["type"] == "model_type":
        text = f"{where} is {_shown(value)}; it has to be an object{'' if loc else f' such as {_example(model)}'}"
    elif problem["type"] == "too_long":
        text = f"{where} has {len(value):,} entries; at most {problem['ctx']['max_length']:,} are allowed"
    else:
        text = f"{where} is {_shown(value)}; {message[:1].lower()}{message[1:]}"
    return Problem(loc=loc, msg=text, type=problem["type"])


def _example(model: type[Request]) -> str:
    examples: list[Any] = model.model_json_schema().get("examples", [{}])
    return json.dumps(examples[0], ensure_ascii=False)


def _shown(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
