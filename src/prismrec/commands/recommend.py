"""`prismrec recommend`: recommendations for a history of titles, from a bundle without a server, or from a service.

A title is looked up as an item id, as it stands, without regard to case and accents, and last by its words; it has to
name one item. Bundle and service are asked the same questions and give the same answers, JSON of `POST /recommend`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import click

from prismrec.commands import frame
from prismrec.errors import UserError

KEY_VARIABLE = "PRISMREC_API_KEY"
CANDIDATES = 8  # shown of a title that names several items
SEARCHED = 100  # as many as a service gives
IDS_AT_ONCE = 20  # of any length they fit into an address
SHOWN_ITEMS = 5  # of each interest
WIDTH = 52  # of a title
SECONDS = 60.0  # that a service may take
EXAMPLES = """
\b
Examples:
  prismrec recommend --history "Toy Story (1995)" --history "Heat (1995)"
  prismrec recommend --env ml1m --history "toy story (1995)" -k 5 --num-interests 3
  prismrec recommend --bundle ./bundle --history i00006 --diversity 0.5 --json
  prismrec recommend --url http://localhost:3000 --history "Heat (1995)"
  prismrec recommend                              what is popular
\b
--history takes item ids too. Repeat it, oldest first.
"""


class Found(NamedTuple):
    """An item of the catalogue."""

    item_id: str
    title: str


class Source(Protocol):
    """Who is asked."""

    def items(self, query: str) -> list[Found]:
        """Items whose titles hold the query's words."""

    def by_ids(self, item_ids: Sequence[str]) -> list[Found]:
        """Those items of these ids that the catalogue has."""

    def recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a body of `POST /recommend`."""


@click.command(epilog=EXAMPLES, short_help="Recommend for a history of titles.")
@click.option("--history", "titles", multiple=True, metavar="TITLE", help="A title or item id; repeat, oldest first.")
@click.option("-k", "--k", default=10, show_default=True, help="Items of the list.")
@click.option("--num-interests", type=int, help="Interests at most; the model's own number by default.")
@click.option("--diversity", type=float, default=0.0, show_default=True, help="0: likeliest; 1: interests in turn.")
@click.option("--novelty", type=float, default=0.0, show_default=True, help="What interests not in the history gain.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Above 1 spreads the interests.")
@click.option("--model", help="A model of the bundle; its default otherwise.")
@click.option("--keep-seen", is_flag=True, help="Items of the history may be recommended too.")
@frame.bundle_option
@click.option("--url", help="Ask a service instead, such as http://localhost:3000.")
@click.option("--api-key", envvar=KEY_VARIABLE, help=f"The service's key; or set {KEY_VARIABLE}.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer.")
@frame.env_option
@frame.traceback_option
@frame.friendly
def recommend(
    titles: tuple[str, ...],
    bundle: Path | None,
    url: str | None,
    api_key: str | None,
    as_json: bool,
    env: str | None,
    keep_seen: bool,
    **options: Any,
) -> None:
    """Recommend for a history of titles, by interest and merged.

    Without --bundle and --url the bundle that the project's workspace packaged last answers, in this process.
    """
    if url and bundle:
        raise UserError("Two sources are named.", "--bundle, --url", "Give one of the two.")
    source: Source = Service(url, api_key) if url else Bundle(frame.bundle_folder(bundle, env))
    history = resolve(titles, source)
    body = {"history": [item.item_id for item in history], "exclude_seen": not keep_seen, **options}
    answer = source.recommend(body)
    click.echo(json.dumps(answer, ensure_ascii=False, indent=2) if as_json else as_table(history, answer))


def resolve(titles: Sequence[str], source: Source) -> list[Found]:
    """The items that titles or ids name.

    Raises:
        UserError: a title names none or several.
    """
    by_id = {found.item_id: found for found in source.by_ids(titles)}
    return [by_id.get(title) or _by_title(title, source) for title in titles]


def _by_title(title: str, source: Source) -> Found:
    from prismrec.serving.catalogue import folded

    found = source.items(title)
    for same in (lambda one: one == title, lambda one: folded(one) == folded(title), lambda one: True):
        fitting = [item for item in found if same(item.title)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise _ambiguous(title, fitting)
    raise UserError(
        f"No item is called {title!r}, nor has this id.", "--history", "Give fewer of its words, or its id."
    )


def _ambiguous(title: str, fitting: Sequence[Found]) -> UserError:
    shown = [f"{item.title}   (id {item.item_id})" for item in fitting[:CANDIDATES]]
    more = [f"… and {len(fitting) - CANDIDATES} more"] if len(fitting) > CANDIDATES else []
    return UserError(
        f"{len(fitting)} items fit {title!r}.",
        "--history",
        "\n         ".join(["Give the whole title or the id of one of them:", *shown, *more]),
    )


class Bundle:
    """A bundle, asked in this process."""

    def __init__(self, folder: Path) -> None:
        from prismrec.serving.engine import Engine

        self._engine = Engine.load(folder)

    def items(self, query: str) -> list[Found]:
        """Search in the catalogue."""
        return [Found(item.item_id, item.title) for item in self._engine.catalogue.search(query, SEARCHED)]

    def by_ids(self, item_ids: Sequence[str]) -> list[Found]:
        """Look into the catalogue."""
        catalogue = self._engine.catalogue
        items = [catalogue.items[row] for row in catalogue.places(item_ids)]
        return [Found(item.item_id, item.title) for item in items]

    def recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer as the service does."""
        from prismrec.serving import operations
        from prismrec.serving.types import RecommendRequest, Refused, parse

        try:
            request = parse(RecommendRequest, json.dumps(body).encode())
        except Refused as refused:
            raise UserError(str(refused), "options", "prismrec recommend --help") from refused
        return operations.recommend(self._engine, request).model_dump(mode="json")


class Service:
    """A service, asked over HTTP."""

    def __init__(self, url: str, api_key: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError("This is no address of a service.", f"--url {url}", "Such as http://localhost:3000.")
        self._url, self._headers = url.rstrip("/"), {"X-API-Key": api_key} if api_key else {}

    def items(self, query: str) -> list[Found]:
        """`GET /items`, by its query."""
        return self._items([("query", query), ("limit", str(SEARCHED))])

    def by_ids(self, item_ids: Sequence[str]) -> list[Found]:
        """`GET /items`, by its ids, some at a time; what is too long for an id is none."""
        from prismrec.serving.types import MAX_ID_LENGTH

        ids = [item_id for item_id in dict.fromkeys(item_ids) if 0 < len(item_id) <= MAX_ID_LENGTH]
        return [
            found
            for start in range(0, len(ids), IDS_AT_ONCE)
            for found in self._items([("id", item_id) for item_id in ids[start : start + IDS_AT_ONCE]])
        ]

    def _items(self, parameters: list[tuple[str, str]]) -> list[Found]:
        found = self._ask(f"/items?{urllib.parse.urlencode(parameters)}", None)["items"]
        return [Found(item["item_id"], item["title"]) for item in found]

    def recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        """POST /recommend."""
        return self._ask("/recommend", body)

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            raise UserError(f"The service refuses: {_reason(error)}", f"{self._url}, {error.code}") from error
        except (OSError, ValueError) as error:
            raise UserError(
                "No service answers there.", f"{self._url}: {error}", "Start one: bentoml serve prismrec:latest"
            ) from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return error.reason


def as_table(history: Sequence[Found], answer: dict[str, Any]) -> str:
    """The answer for people: the merged list, then each interest with its first items."""
    names = {interest["id"]: interest["label"] for interest in answer["interests"]}
    lines = [f"history   {' · '.join(item.title for item in history) or 'none'}", f"model     {answer['model']}"]
    lines += [f"note      {answer['note']}"] if answer["note"] else []
    lines += ["", f"    {'recommended':<{WIDTH}}  interest"]
    for place, item in enumerate(answer["items"], start=1):
        interest = names.get(item["interest"], item["interest"] or "")
        lines.append(f"{place:>3} {_fitted(item['title']):<{WIDTH}}  {interest}")
    for interest in answer["interests"]:
        reasons = ", ".join(reason["title"] for reason in interest["reasons"])
        lines += ["", f"{interest['weight']:>4.0%} {interest['label']} ({interest['id']})"]
        lines += [f"     like {reasons}"] if reasons else []
        lines += [f"     {_fitted(item['title'])}" for item in interest["items"][:SHOWN_ITEMS]]
    return "\n".join(lines)


def _fitted(title: str) -> str:
    return title if len(title) <= WIDTH else f"{title[: WIDTH - 1]}…"
