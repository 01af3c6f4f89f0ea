"""The web layer without BentoML: routes, limits, keys, refusals, and the document that describes them."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from prismrec.artifacts.bundle import MANIFEST_NAME
from prismrec.serving import web
from prismrec.serving.engine import Engine
from prismrec.serving.meter import Meter
from prismrec.serving.operations import ENGINE_OPERATIONS
from prismrec.serving.web import ApiKey, application


@pytest.fixture(scope="module")
def engine(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.load(bundle_folder, tmp_path_factory.mktemp("added"))


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(application(lambda: engine, ENGINE_OPERATIONS), raise_server_exceptions=False) as client:
        yield client


def test_a_batch_answers_like_single_requests(client: TestClient) -> None:
    requests: list[dict[str, Any]] = [
        {"history": ["i1", "i2"], "k": 3},
        {"history": [], "k": 2},
        {"history": [{"title": "quiet"}]},
    ]
    answers = client.post("/recommend_batch", json={"requests": requests}).json()["responses"]
    assert answers == [client.post("/recommend", json=request).json() for request in requests]


def test_who_goes_astray_is_told_like_everybody_else(client: TestClient) -> None:
    nowhere, wrong = client.get("/nowhere"), client.put("/recommend", json={})
    assert (nowhere.status_code, wrong.status_code) == (404, 405)
    for answer in (nowhere, wrong):
        assert "/docs.json" in answer.json()["error"]
        assert answer.json()["detail"] == []
    assert wrong.headers["allow"] == "POST"


def test_similar_items_by_id_and_by_text(client: TestClient) -> None:
    by_id = client.post("/similar_items", json={"item_id": "i57", "k": 3}).json()["items"]
    assert len(by_id) == 3
    assert "i57" not in [item["item_id"] for item in by_id]
    # i57 was never trained: its vector is that of its text.
    text = {"title": "Film 57", "categories": ["Drama"]}
    by_text = client.post("/similar_items", json={"item": text, "k": 1}).json()["items"]
    assert by_text[0]["item_id"] == "i57"
    assert by_text[0]["score"] == pytest.approx(1, abs=1e-3)
    missing = client.post("/similar_items", json={"item_id": "nobody"})
    assert missing.status_code == 404
    assert missing.json()["detail"][0]["loc"] == ["item_id"]


def test_the_dictionary_s_interests(client: TestClient, engine: Engine) -> None:
    content = client.get("/interests").json()
    assert content["dictionary"] == engine.versions.dictionary
    sizes = [interest["items"] for interest in content["interests"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 59  # the active items
    assert content["interests"][0]["top_items"]


def test_items_are_found_by_their_titles(client: TestClient) -> None:
    assert [
        item["item_id"] for item in client.get("/items", params={"query": "film 1", "limit": 3}).json()["items"]
    ] == [
        "i1",
        "i10",
        "i11",
    ]
    assert client.get("/items?limit=0").status_code == 400
    assert client.get("/items?limit=1&limit=2").status_code == 400


def test_a_path_says_which_methods_it_knows(client: TestClient) -> None:
    answer = client.put("/items")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD", "POST"})
    assert client.head("/items").status_code == 200
    assert client.get("/nothing").status_code == 404


def test_an_added_item_is_recommended_at_once(client: TestClient) -> None:
    added = {"item_id": "new", "title": "robots quiet", "categories": ["Horror"]}
    assert client.post("/items", json={"items": [added]}).json()["added_items"] == 1
    for model in ("hymirec", "gemirec", "popularity"):
        answer = client.post("/recommend", json={"history": ["i1"], "k": 200, "model": model}).json()
        assert "new" in [item["item_id"] for item in answer["items"]]
    only = client.post("/recommend", json={"history": ["i1"], "allow": ["new", "i2"], "deny": ["i2"]}).json()
    assert [item["title"] for item in only["items"]] == ["robots quiet"]


def test_what_cannot_be_read_is_refused(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prismrec"):
        answer = client.post("/recommend", content='{"history": ["a\\nb"], "k": 0, "x\\ny": 1}')
    assert answer.status_code == 400
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert record.exc_info is None


def test_a_bug_is_logged_but_not_told(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(engine, "recommend_all", broken)
    answer = client.post("/recommend", json={"history": []})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "RuntimeError" in caplog.text


def test_a_body_too_large_is_refused_unread(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_BODY", 1000)
    assert client.post("/recommend", content=b" " * 1001).status_code == 413

    def chunks() -> Iterator[bytes]:  # without a length
        for _ in range(11):
            yield b" " * 100

    assert client.post("/recommend", content=chunks()).status_code == 413
    assert client.post("/recommend", content=b'{"history": []}'.ljust(1000)).status_code == 200


class CountingMeter(Meter):
    """Keeps what is counted of requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []

    def request(self, path: str, status: int, seconds: float) -> None:
        self.requests.append((path, status))


@pytest.fixture
def meter() -> CountingMeter:
    return CountingMeter()


def run_against(app: Any, ask: Callable[[httpx.AsyncClient], Any]) -> Any:
    async def asked() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            return await ask(http)

    return asyncio.run(asked())


def test_a_slow_body_is_not_waited_for_but_counted_and_said(
    engine: Engine, meter: CountingMeter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web, "BODY_SECONDS", 0.05)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"history"'
        await asyncio.sleep(30)

    app = application(lambda: engine, ENGINE_OPERATIONS, meter=lambda: meter)
    with caplog.at_level(logging.INFO, "prismrec"):
        answer = run_against(app, lambda http: http.post("/recommend", content=slowly()))
    assert answer.status_code == 408
    assert meter.requests == [("/recommend", 408)]
    assert "POST /recommend: 408" in caplog.text


def test_after_a_504_nobody_computes_beside_what_still_runs_nor_what_waited_too_long(
    engine: Engine, meter: CountingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "ANSWER_SECONDS", 0.2)
    at_work, most, begun, go_on = 0, 0, 0, threading.Event()

    def slow() -> Engine:  # called by each answer, in the thread that computes it
        nonlocal at_work, most, begun
        at_work, begun = at_work + 1, begun + 1
        most = max(most, at_work)
        go_on.wait(30)
        at_work -= 1
        return engine

    async def ask(http: httpx.AsyncClient) -> list[int]:
        late = await asyncio.gather(*(http.get("/model") for _ in range(3)))  # one at work, two waiting
        again = asyncio.create_task(http.get("/model"))
        await asyncio.sleep(0.1)
        go_on.set()
        return [answer.status_code for answer in (*late, await again)]

    statuses = run_against(application(slow, ENGINE_OPERATIONS, meter=lambda: meter), ask)
    assert statuses == [504, 504, 504, 200]
    assert (begun, most) == (2, 1)
    assert meter.requests == [("/model", 504)] * 3 + [("/model", 200)]


def test_requests_that_wait_are_answered_together_and_each_as_if_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    go_on = threading.Event()
    recommend_all = engine.recommend_all

    def counted(questions: list[Any]) -> list[Any]:
        sizes.append(len(questions))
        go_on.wait(30)
        return recommend_all(questions)

    monkeypatch.setattr(engine, "recommend_all", counted)
    good = {"history": ["i1", "i2"], "k": 3}
    bodies = [good, {"history": ["i5"]}, {"history": 5}, {"history": ["i5"], "model": "nothing"}, {"history": []}, good]

    async def ask(http: httpx.AsyncClient) -> list[httpx.Response]:
        asked = [asyncio.create_task(http.post("/recommend", json=body)) for body in bodies]
        asked.append(asyncio.create_task(http.get("/model")))
        await asyncio.sleep(0.2)
        go_on.set()
        return await asyncio.gather(*asked)

    answers = run_against(application(lambda: engine, ENGINE_OPERATIONS), ask)
    assert [answer.status_code for answer in answers] == [200, 200, 400, 400, 200, 200, 200]
    assert sizes == [1, 4]  # the first did not wait for company; what is no request never reaches the engine
    assert answers[-1].json()["default_model"] == "hymirec"
    assert [item["item_id"] for item in answers[0].json()["items"]] == [
        item["item_id"] for item in answers[5].json()["items"]
    ]


def test_every_refusal_is_counted_by_its_route(
    engine: Engine, meter: CountingMeter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web, "MAX_BODY", 1000)
    app = application(lambda: engine, ENGINE_OPERATIONS, meter=lambda: meter)
    client = TestClient(ApiKey(app, "right", meter=lambda: meter))
    with caplog.at_level(logging.INFO, "prismrec"):
        client.get("/a/path/with/ada")
        client.post("/recommend", content=b" " * 1001, headers={"X-API-Key": "right"})
        client.post("/recommend", content=b"{}", headers={"X-API-Key": "right"})
        client.get("/model", headers={"X-API-Key": "right"})
        client.get("/a/path/with/ada", headers={"X-API-Key": "right"})
    assert meter.requests == [("*", 401), ("/recommend", 413), ("/recommend", 400), ("/model", 200)]
    assert len(caplog.records) == 3
    assert "401" in caplog.text
    assert "ada" not in caplog.text
    monkeypatch.setattr(web, "MAX_WAITING", -1)
    assert client.get("/model", headers={"X-API-Key": "right"}).status_code == 429
    assert meter.requests[-1] == ("/model", 429)


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/model", None, 401),
        ("/model", "wrong", 401),
        ("/model", "käse", 401),
        ("/model", "right", 200),
        ("/docs.json", None, 401),
        ("/nothing", None, 401),
        ("/open", None, 404),
        ("/livez", None, 404),
    ],
)
def test_a_key_is_wanted_for_everything_but_probes_and_the_page(
    engine: Engine, path: str, key: str | None, status: int
) -> None:
    app = ApiKey(application(lambda: engine, ENGINE_OPERATIONS), "right", frozenset({"/open"}))
    headers = {} if key is None else {"X-API-Key": key.encode()}
    answer = TestClient(app).get(path, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert "X-API-Key" in answer.json()["error"]
        assert "right" not in answer.text


def test_the_key_is_asked_for_before_the_body_is_read(engine: Engine) -> None:
    app = ApiKey(application(lambda: engine, ENGINE_OPERATIONS), "right")
    assert TestClient(app).post("/recommend", content=b" " * (web.MAX_BODY + 1)).status_code == 401


def test_no_answer_names_a_path_of_this_machine(bundle_folder: Path, tmp_path: Path) -> None:
    broken = Engine.load(bundle_folder, tmp_path / "added")
    client = TestClient(application(lambda: broken, ENGINE_OPERATIONS))
    assert client.post("/items", json={"items": [{"item_id": "a", "title": "robots"}]}).status_code == 200
    (tmp_path / "added" / "00000001" / "items.jsonl").write_text("")
    answer = client.post("/items", json={"items": [{"item_id": "b", "title": "robots"}]})
    assert answer.status_code == 409
    assert str(tmp_path) not in answer.text
    assert MANIFEST_NAME not in answer.text


def test_every_operation_is_described_with_examples_limits_and_errors(client: TestClient) -> None:
    document = client.get("/docs.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["RecommendRequest"]["properties"]["k"]["maximum"] == 200
    assert schemas["RecommendRequest"]["examples"]
    for operation in ENGINE_OPERATIONS:
        described = document["paths"][operation.path][operation.method.lower()]
        assert {"200", "400", "401"} < set(described["responses"])
        if operation.method == "POST":
            assert {"408", "413"} < set(described["responses"])
    limit = next(p for p in document["paths"]["/items"]["get"]["parameters"] if p["name"] == "limit")
    assert (limit["in"], limit["required"], limit["schema"]["maximum"]) == ("query", False, 100)
    references = set(_references(document))
    assert {reference.rpartition("/")[2] for reference in references} <= set(schemas)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
