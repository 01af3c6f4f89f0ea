"""Routes by user id, for services that keep histories: send events, ask for recommendations, be forgotten.

`GET /recommend/{user}` answers from the stored history. Where the model has a posterior over dictionary interests, the
strongest ones are kept with the user, together with the recommender's state (`UserMemory`): a user who comes back
costs no network but the retrieval head. They count for one bundle, its dictionary, one generation of added items and
one history; new events drop them. So that it makes no difference who was remembered, such an answer is always made of
the strongest interests, as `POST /recommend` does it when `num_interests` is given.

Our choices: an event without a timestamp happened when it arrived, so only a request with timestamps can be repeated
without a second event. A user nobody knows gets popular items. Events of items that the catalogue does not know are
kept: they may be added later. Forgetting somebody who is not there is no error.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

from pydantic import ConfigDict, FailFast, Field

from prismrec.serving.engine import Engine
from prismrec.serving.history_store import HISTORY_VARIABLE, HistoryStore, StoredEvent, StoreUnavailable
from prismrec.serving.operations import Operation
from prismrec.serving.types import (
    MAX_HISTORY,
    MAX_ID_LENGTH,
    Answer,
    ItemId,
    RecommendOptions,
    RecommendResponse,
    Refused,
    Request,
    Timestamp,
)

NO_STORE = f"This service keeps no histories: set {HISTORY_VARIABLE}, or send the history to POST /recommend."
ERRORS = {501: "The service keeps no histories.", 503: "The store of histories does not answer."}

# No slash: an id has to fit into a path.
UserId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern="^[^/]+$")]


class Event(Request):
    """A user met an item."""

    item_id: ItemId
    timestamp: Timestamp | None = Field(default=None, description="Seconds since 1970 UTC; when it arrives by default.")


class EventsRequest(Request):
    """Events of one user."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user": "ada",
                    "events": [{"item_id": "1", "timestamp": 978300760}, {"item_id": "3114", "timestamp": 978302109}],
                }
            ]
        }
    )

    user: UserId
    events: Annotated[list[Event], FailFast()] = Field(
        min_length=1,
        max_length=MAX_HISTORY,
        description="In any order. The same item at the same second is one event, however often it is sent.",
    )


class EventsResponse(Answer):
    """What became of the events."""

    added: int = Field(description="Events that were new.")
    events: int = Field(description=f"Events kept of the user now, the newest {MAX_HISTORY:,} at most.")
    unknown_items: list[str] = Field(description="Ids that the catalogue does not know; they are kept all the same.")


class UserRequest(RecommendOptions):
    """A user whose history is kept, and what is wanted."""

    user: UserId = Field(description="As in POST /events.")
    now: Timestamp | None = Field(
        default=None, description="When the recommendation is asked for, seconds since 1970 UTC. Unknown by default."
    )


class ForgetRequest(Request):
    """A user."""

    user: UserId


class ForgetResponse(Answer):
    """What was kept until now."""

    deleted_events: int


class UserMemory:
    """What is kept of one user for one history; see `prismrec.serving.engine.Memory`."""

    def __init__(self, store: HistoryStore, user: str, history: Sequence[StoredEvent]) -> None:
        self._store, self._user = store, user
        text = "\0".join(f"{event.timestamp} {event.item_id}" for event in history)
        self._history = hashlib.sha256(text.encode()).hexdigest()

    def recall(self, key: str) -> bytes | None:
        """What was kept under this key for this very history."""
        return self._store.recall(self._user, f"{key}/{self._history}")

    def remember(self, key: str, value: bytes) -> None:
        """Keep it instead of what was kept before."""
        self._store.remember(self._user, f"{key}/{self._history}", value)


def operations(
    store: Callable[[], HistoryStore | None], clock: Callable[[], float] = time.time
) -> tuple[Operation, ...]:
    """The routes.

    Args:
        store: gives the worker's store; None: each of them answers 501.
        clock: seconds since 1970 UTC.
    """

    @contextmanager
    def opened() -> Iterator[HistoryStore]:
        found = store()
        if found is None:
            raise Refused(501, NO_STORE)
        try:
            yield found
        except StoreUnavailable as error:
            raise Refused(503, str(error)) from error

    def add(engine: Engine, request: EventsRequest) -> EventsResponse:
        now = int(clock())
        events = [
            StoredEvent(event.item_id, now if event.timestamp is None else event.timestamp) for event in request.events
        ]
        with opened() as histories:
            added, kept = histories.add(request.user, events), len(histories.history(request.user))
        unknown = dict.fromkeys(event.item_id for event in events if event.item_id not in engine.catalogue.rows)
        return EventsResponse(added=added, events=kept, unknown_items=list(unknown))

    def recommend(engine: Engine, request: UserRequest) -> RecommendResponse:
        with opened() as histories:
            history = histories.history(request.user)
            _check_now(request.now, history)
            answer = engine.recommend(
                [event.item_id for event in history],
                timestamps=[event.timestamp for event in history] if engine.timed else [],
                memory=UserMemory(histories, request.user, history),
                **request.model_dump(exclude={"user"}),
            )
        return RecommendResponse.of(answer)

    def forget(_: Engine, request: ForgetRequest) -> ForgetResponse:
        with opened() as histories:
            return ForgetResponse(deleted_events=histories.forget(request.user))

    return (
        Operation("POST", "/events", "Keep events of a user.", add, EventsResponse, EventsRequest, errors=ERRORS),
        Operation(
            "GET",
            "/recommend/{user}",
            "Interests with items, and one list, for a user whose events are kept.",
            recommend,
            RecommendResponse,
            UserRequest,
            errors=ERRORS,
        ),
        Operation(
            "DELETE",
            "/users/{user}",
            "Delete all that is kept of a user.",
            forget,
            ForgetResponse,
            ForgetRequest,
            errors=ERRORS,
        ),
    )


def _check_now(now: int | None, history: Sequence[StoredEvent]) -> None:
    if now is not None and history and now < history[-1].timestamp:
        newest = history[-1].timestamp
        raise Refused(
            400, f"now is {now}, before the user's newest event, {newest}; give seconds since 1970 UTC", "now"
        )
