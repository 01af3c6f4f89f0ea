"""The web layer: operations as routes, bodies read within limits, refusals as JSON. It knows no BentoML.

    limits → API key → body → request → engine → answer

Notable, all our choices:
- Everything that costs time runs in one thread beside the event loop: a core is full with one. Whenever it is free it
  takes what waits: one request, or several of an operation that answers them together. So nobody waits for company,
  and under load it comes by itself. Probes and metrics are answered meanwhile. Who waited too long is not computed any
  more; who is being computed keeps the thread until that ends, though a 504 was sent long ago.
- Nothing is parsed before the key and the size of the body are right. A body has `BODY_SECONDS` to arrive.
- Whatever a client calls its body, it is read as JSON: `curl -d` just works, and no form or pickle is ever parsed.
- A refusal is one line in the log, and names no path of this machine. What only a bug can cause is logged with its
  traceback, and answered without it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from prismrec.errors import UserError
from prismrec.serving.engine import TOGETHER, Engine, NoTexts, NotHere, UnknownModel
from prismrec.serving.meter import Meter
from prismrec.serving.openapi import document
from prismrec.serving.operations import Operation
from prismrec.serving.types import Answer, Refused, parse, parse_strings

MAX_BODY = 8 * 2**20  # bytes; the largest sensible request has 10,000 ids and 100 texts
BODY_SECONDS = 10.0
ANSWER_SECONDS = 30.0  # from the whole body on, the wait for others included
MAX_WAITING = 64  # whole requests; bodies that are still on their way keep nobody out
KEY_HEADER = b"x-api-key"
PROBES = frozenset({"/livez", "/readyz", "/healthz"})
OPENAPI_PATH = "/docs.json"
ANY_PATH = "*"  # in the meter: a path that nobody checked is no label
JSON = "application/json"
INTERNAL = "Something went wrong here; the server's log says what."

log = logging.getLogger(__name__)
T = TypeVar("T")


class _Answered(NamedTuple):
    status: int
    body: bytes


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A whole request, and where its answer goes."""

    operation: Operation
    request: Request
    body: bytes
    answer: Future[_Answered]


class _Turns:
    """The one thread, and who waits for it."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, "prismrec-answers")
        self._pending = 0
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()

    async def run(self, operation: Operation, request: Request, body: bytes) -> _Answered:
        """Answer a request when it is our turn.

        Raises:
            Refused: 429, too many are waiting; 504, it took too long.
        """
        if self._pending > MAX_WAITING:  # one of them is at work
            raise Refused(429, "Too many requests are waiting; try again in a moment.")
        self._pending += 1
        try:
            one = _Waiting(operation, request, body, Future())
            with self._lock:
                self._waiting.append(one)
            self._thread.submit(self._turn)
            async with asyncio.timeout(ANSWER_SECONDS):  # takes work back that has not begun
                return await asyncio.wrap_future(one.answer)
        except TimeoutError:
            raise Refused(504, f"There was no answer within {ANSWER_SECONDS:.0f} seconds.") from None
        finally:
            self._pending -= 1

    def _turn(self) -> None:
        """Answer who waits longest, and who can be answered with them; nobody may be left, by turns before."""
        if taken := self._taken():
            for one, answered in zip(taken, _answers(self._engine, taken), strict=True):
                one.answer.set_result(answered)

    def _taken(self) -> list[_Waiting]:
        with self._lock:
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            company = [one for one in self._waiting if first.operation.together and one.operation is first.operation]
            taken = [first, *company[: TOGETHER - 1]]
            self._waiting = deque(one for one in self._waiting if one not in set(taken))
        return [one for one in taken if one.answer.set_running_or_notify_cancel()]


def application(
    engine: Callable[[], Engine],
    operations: Sequence[Operation],
    routes: Sequence[BaseRoute] = (),
    meter: Callable[[], Meter] = Meter,
) -> Starlette:
    """The service's routes, and the OpenAPI document of them.

    Args:
        engine: gives the engine of the moment.
        operations: what can be asked.
        routes: anything else, such as the explorer page.
        meter: gives what counts the requests, refused ones too.
    """
    turns = _Turns(engine)
    openapi = document(operations)

    async def describe(_: Request) -> Response:
        return Response(openapi, media_type=JSON)

    by_path: dict[str, dict[str, Operation]] = defaultdict(dict)
    for one in operations:
        by_path[one.path][one.method] = one
    typed = [
        Route(path, partial(_endpoint, methods, meter, turns), methods=list(methods))
        for path, methods in by_path.items()
    ]
    known = [*typed, Route(OPENAPI_PATH, describe), *routes]
    return Starlette(routes=[*known, Route("/{path:path}", _Astray(known))])


class _Astray:
    """Answers where no route does: a path that nobody knows, or a method that it does not have.

    A route of its own, since BentoML asks us for no path but those of our routes.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request."""
        paths = [one for one in self._routes if isinstance(one, Route) and one.matches(scope)[0] is Match.PARTIAL]
        allowed = sorted({method for one in paths for method in one.methods or ()})
        said = f"{scope['method']} is not what this path takes" if allowed else "There is no such path"
        refused = Refused(405 if allowed else 404, f"{said}; GET {OPENAPI_PATH} lists them all.")
        headers = {"Allow": ", ".join(allowed)} if allowed else None
        answer = Response(refused.content.model_dump_json(), refused.status, headers, JSON)
        await answer(scope, receive, send)


async def _endpoint(
    methods: Mapping[str, Operation],
    meter: Callable[[], Meter],
    turns: _Turns,
    request: Request,
) -> Response:
    operation = methods["GET" if request.method == "HEAD" else request.method]
    started = time.perf_counter()
    try:
        body = await _body(request) if operation.method == "POST" else b""
        started = time.perf_counter()
        answered = await turns.run(operation, request, body)
    except Refused as refused:
        answered = _told(operation, refused)
    except ClientDisconnect:
        answered = _Answered(400, b"")  # nobody is there to read it
    meter().request(operation.path, answered.status, time.perf_counter() - started)
    return _response(answered)


async def _body(request: Request) -> bytes:
    """The whole body, if it is small enough and comes in time."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY:
        raise _too_large()
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY:
                    raise _too_large()
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(408, f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None
    return b"".join(chunks)


def _too_large() -> Refused:
    return Refused(413, f"The body is larger than {MAX_BODY:,} bytes.")


def _answers(engine: Callable[[], Engine], asked: Sequence[_Waiting]) -> list[_Answered]:
    """Of requests of one operation; what one of them does wrong is its own."""
    operation = asked[0].operation
    questions = [_attempt(_question, operation, one.request, one.body) for one in asked]
    valid = [question for question in questions if not isinstance(question, Exception)]
    found = iter(_found(engine, operation, valid))
    return [_answered(operation, one if isinstance(one, Exception) else next(found)) for one in questions]


def _found(
    engine: Callable[[], Engine], operation: Operation, questions: Sequence[Any]
) -> Sequence[Answer | Exception]:
    if not questions:
        return []
    current = _attempt(_refreshed, engine)
    if isinstance(current, Exception):
        return [current] * len(questions)
    if operation.together is None:
        return [_attempt(operation.answer, current, question) for question in questions]
    found = _attempt(operation.together, current, questions)
    return [found] * len(questions) if isinstance(found, Exception) else found


def _refreshed(engine: Callable[[], Engine]) -> Engine:
    current = engine()
    current.refresh()
    return current


def _attempt(work: Callable[..., T], *arguments: Any) -> T | Exception:
    try:
        return work(*arguments)
    except Exception as error:
        return error


def _answered(operation: Operation, answer: Answer | Exception) -> _Answered:
    text = answer if isinstance(answer, Exception) else _attempt(answer.model_dump_json)
    return _refused(operation, text) if isinstance(text, Exception) else _Answered(200, text.encode())


def _refused(operation: Operation, error: Exception) -> _Answered:
    if isinstance(error, Refused):
        return _told(operation, error)
    if isinstance(error, UserError):
        return _told(operation, _as_refusal(error))
    log.error("%s %s failed", operation.method, operation.path, exc_info=error)
    return _Answered(500, Refused(500, INTERNAL).content.model_dump_json().encode())


def _question(operation: Operation, request: Request, body: bytes) -> Any:
    if operation.request is None:
        return None
    if operation.method == "POST":
        return parse(operation.request, body)
    query = {name: request.query_params.getlist(name) for name in request.query_params}
    values = {name: found[0] if len(found) == 1 else found for name, found in query.items()}
    return parse_strings(operation.request, {**values, **request.path_params})


def _as_refusal(error: UserError) -> Refused:
    """In a client's words: what is wrong and what to do, but no path of this machine."""
    if isinstance(error, UnknownModel):
        return Refused(400, f"{error.what} {error.mend}", "model")
    if isinstance(error, NotHere):
        return Refused(404, f"{error.what} {error.mend}", error.where)
    if isinstance(error, NoTexts):
        return Refused(501, error.what)
    return Refused(409, error.what)


def _told(operation: Operation, refused: Refused) -> _Answered:
    log.info("%s %s: %d %s", operation.method, operation.path, refused.status, _one_line(refused.content.error))
    return _Answered(refused.status, refused.content.model_dump_json().encode())


def _one_line(text: str) -> str:
    """Clients' words in a log: no line of their own making."""
    return "".join(mark if mark.isprintable() else "�" for mark in text)


def _response(answered: _Answered) -> Response:
    return Response(answered.body, answered.status, media_type=JSON)


class ApiKey:
    """Middleware: wants a key in X-API-Key for everything but probes and the open paths.

    Args:
        key: none is wanted if empty.
        open_paths: the explorer page's, which hold no data.
        meter: gives what counts those that are sent away.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str = "",
        open_paths: frozenset[str] = frozenset(),
        meter: Callable[[], Meter] = Meter,
    ) -> None:
        self.app, self._key, self._open, self._meter = app, key.encode(), PROBES | open_paths, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and self._key and scope["path"] not in self._open:
            given = next((value for name, value in scope["headers"] if name == KEY_HEADER), b"")
            if not hmac.compare_digest(given, self._key):
                content = Refused(401, "This service wants a key: send it in the header X-API-Key.").content
                log.info("A request was refused: 401 %s", "another key" if given else "no key")
                self._meter().request(ANY_PATH, 401, 0.0)
                response = Response(content.model_dump_json(), 401, {"WWW-Authenticate": "ApiKey"}, JSON)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
