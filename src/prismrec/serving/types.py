"""Request and response of `POST /recommend`: limits, examples, and refusals that a person can act on.

Our choice: strict types (an item id is a string, `"10"` is no number) and no unknown fields, so that a
misspelt option is never silently unused. A refusal says the field, the value it had, and what is allowed.
Long wrong input gives one error, not ten thousand.
"""

import json
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from prismrec.artifacts.bundle import Versions

MAX_HISTORY = 10_000
MAX_ID_LENGTH = 256
MAX_K = 200
MAX_INTERESTS = 16
SHOWN_LENGTH = 60

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Timestamp = Annotated[int, Field(ge=0, lt=2**40)]


class RecommendRequest(BaseModel):
    """A user's history and how many recommendations are wanted."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        title="RecommendRequest",
        json_schema_extra={"example": {"history": ["1", "3114", "2355"], "k": 10}},
    )

    history: Annotated[list[ItemId], FailFast()] = Field(
        max_length=MAX_HISTORY,
        description="Item ids, oldest first. Unknown ids are ignored and reported; it may be empty.",
    )
    timestamps: Annotated[list[Timestamp], FailFast()] = Field(
        default=[],
        max_length=MAX_HISTORY,
        description="When each event happened, seconds since 1970 UTC; one for each, or none where times are unknown.",
    )
    now: Timestamp | None = Field(
        default=None,
        description="When the recommendation is asked for, seconds since 1970 UTC, beside timestamps; what comes next "
        "in a session differs from what opens the next one. Unknown by default.",
    )
    k: int = Field(default=10, ge=1, le=MAX_K, description="Items of each list.")
    num_interests: int | None = Field(
        default=None,
        ge=1,
        le=MAX_INTERESTS,
        description="Interests at most; the model's own number by default.",
    )
    exclude_seen: bool = Field(default=True, description="Leave out the items of the history.")
    model: str | None = Field(
        default=None,
        max_length=64,
        description="A model of the bundle, see GET /model; its default otherwise.",
    )

    @model_validator(mode="after")
    def _one_time_an_event(self) -> "RecommendRequest":
        if self.timestamps and len(self.timestamps) != len(self.history):
            raise PydanticCustomError(
                "timestamps_length",
                "timestamps has {times} entries, history has {events}; give one for each event, or none",
                {"times": len(self.timestamps), "events": len(self.history)},
            )
        return self

    @model_validator(mode="after")
    def _now_after_the_history(self) -> "RecommendRequest":
        if self.now is not None and self.history and not self.timestamps:
            raise PydanticCustomError(
                "now_alone", "now says nothing without timestamps; give those too, or leave it out"
            )
        if self.now is not None and self.timestamps and self.now < max(self.timestamps):
            raise PydanticCustomError(
                "now_too_early",
                "now is {now}, before the newest timestamp {newest}; give seconds since 1970 UTC for both",
                {"now": self.now, "newest": max(self.timestamps)},
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, value: Any, handler: ModelWrapValidatorHandler["RecommendRequest"]) -> "RecommendRequest":
        try:
            return handler(value)
        except ValidationError as error:
            details = [_explained(dict(problem), list(cls.model_fields)) for problem in error.errors()]
            raise ValidationError.from_exception_data(cls.__name__, details) from error


class Item(BaseModel):
    """A recommended item; scores compare within one list only."""

    item_id: str
    title: str
    score: float


class MergedItem(Item):
    """An item of the merged list, with the interest it came from."""

    interest: str | None = Field(
        description="Id of the interest that wants it most; null if that is none of those shown."
    )


class Interest(BaseModel):
    """One interest of the user, with its own list of items."""

    id: str = Field(description='Such as "refined-2", or the dictionary\'s cell "3-11".')
    label: str = Field(description="A name for people.")
    weight: float = Field(description="Share of the user's interest; all of them sum to 1.")
    items: list[Item]


class RecommendResponse(BaseModel):
    """Recommendations by interest, and merged into one list."""

    model_config = ConfigDict(title="RecommendResponse")

    interests: list[Interest]
    items: list[MergedItem]
    unknown_items: list[str] = Field(description="Ids of the history that the catalogue does not know.")
    model: str = Field(description="The model that answered.")
    versions: Versions
    note: str | None = Field(description="What the reader should know about this answer.")


def refusal(field: str, value: Any, allowed: str) -> ValidationError:
    """Return the error for a value that only the engine can tell is wrong, in the form of all the others.

    Args:
        field: name of the request's field.
        value: what it was.
        allowed: what it may be.
    """
    detail = _detail(f"not_{field}", (field,), value, f"{field} is {_shown(value)}; {allowed}")
    return ValidationError.from_exception_data(RecommendRequest.__name__, [detail])


def _explained(problem: dict[str, Any], fields: list[str]) -> InitErrorDetails:
    loc, value, message = problem["loc"], problem["input"], str(problem["msg"])
    where = ".".join(str(step) for step in loc) or "the body"
    if problem["type"] == "missing":
        text = f"{where} is missing"
    elif problem["type"] == "extra_forbidden":
        text = f"{where} is no field of the request; its fields are {', '.join(fields)}"
    elif problem["type"] == "model_type":
        text = f'the body is {_shown(value)}; it has to be an object such as {{"history": ["1", "2"]}}'
    elif problem["type"] == "too_long":
        text = f"{where} has {len(value):,} entries; at most {problem['ctx']['max_length']:,} are allowed"
    else:
        text = f"{where} is {_shown(value)}; {message[:1].lower()}{message[1:]}"
    return _detail(problem["type"], loc, value, text)


def _detail(kind: str, loc: tuple[int | str, ...], value: Any, text: str) -> InitErrorDetails:
    # The text goes in as a context value: braces in a client's input are no template.
    return InitErrorDetails(type=PydanticCustomError(kind, "{text}", {"text": text}), loc=loc, input=value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
