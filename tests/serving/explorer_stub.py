"""A stand-in for the service, for tests of the explorer page: answers at once, and fails or dawdles when told to."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prismrec.serving import explorer

MARKUP = "<img src=x onerror=\"document.title='broken in'\"><b>Bold</b> (1999)"
LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2
TITLES = {
    "1": "Toy Story (1995)",
    "2": "Matrix, The (1999)",
    "3": "Amélie (2001)",
    "4": MARKUP,
    "5": LONG,
    **{str(number): f"Film {number} (19{number})" for number in range(10, 60)},
}


class Stub:
    """The service's API over `TITLES`; one interest for each number asked for, all of them drawn from the titles.

    Attributes:
        status: what every route of the API answers; 200 works.
        key: wanted in X-API-Key, where there is one.
        seconds: how long the answer to a request takes.
        asked: bodies of `POST /recommend`, oldest first.
        searched: queries of `GET /items`.
    """

    def __init__(self) -> None:
        self.reset()
        routes = [
            Route("/items", self._items),
            Route("/model", self._model),
            Route("/recommend", self._recommend, methods=["POST"]),
        ]
        self.app = Starlette(routes=[*explorer.routes(), *routes])

    def reset(self) -> None:
        """Forget what was asked, and work."""
        self.status = 200
        self.key = ""
        self.seconds: Callable[[dict[str, Any]], float] = lambda _: 0.0
        self.asked: list[dict[str, Any]] = []
        self.searched: list[str] = []

    def _refused(self, request: Request) -> Response | None:
        if self.key and request.headers.get("x-api-key") != self.key:
            return JSONResponse({"error": "no key"}, status_code=401)
        if self.status == 400:
            return JSONResponse({"error": "novelty is 9; at most 5", "detail": []}, status_code=400)
        return None if self.status == 200 else Response("trouble", status_code=self.status)

    async def _items(self, request: Request) -> Response:
        if "id" in request.query_params:
            found = [id_ for id_ in request.query_params.getlist("id") if id_ in TITLES]
        else:
            query = request.query_params["query"].casefold()
            self.searched.append(query)
            found = [id_ for id_, title in TITLES.items() if query in title.casefold()]
        items = [{"item_id": id_, "title": TITLES[id_], "categories": []} for id_ in found]
        return self._refused(request) or JSONResponse({"items": items[:12]})

    async def _model(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"models": ["gemirec", "hymirec"], "default_model": "hymirec"})

    async def _recommend(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        await asyncio.sleep(self.seconds(body))
        return self._refused(request) or JSONResponse(_answer(body))


def _answer(body: dict[str, Any]) -> dict[str, Any]:
    history = body["history"]
    shown = [{"item_id": id_, "title": title, "score": -1.0} for id_, title in TITLES.items() if id_ not in history]
    count = body["num_interests"] if history else 1
    known = [{"item_id": id_, "title": TITLES[id_]} for id_ in history if id_ in TITLES]
    interests = [
        {
            "id": f"0-{number}",
            "label": f"Label {number}",
            "weight": 2 * (count - number) / (count * (count + 1)),
            "dictionary": "d",
            "reasons": known[:2],
            "items": shown[number : number + body["k"]],
        }
        for number in range(count)
    ]
    return {
        "interests": interests,
        "items": [
            {**item, "interest": interests[place % count]["id"]} for place, item in enumerate(shown[: body["k"]])
        ],
        "unknown_items": [id_ for id_ in history if id_ not in TITLES],
        "model": body["model"] or "hymirec",
        "versions": {"model": "m", "dictionary": "d", "data": "a"},
        "note": None if history else "The history is empty: these are the most popular items.",
    }


@contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Serve an app in a thread, at an address of this machine that is free."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
