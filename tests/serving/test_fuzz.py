"""Whatever is sent, the service answers what its OpenAPI document says it does, and says nothing that it should not.

Two kinds of cases: requests that schemathesis makes from the document, valid and not, and raw bodies that need not be
JSON at all. Each in a short form, and in a long one that is marked slow.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from starlette.testclient import TestClient

from prismrec.serving import explorer, users
from prismrec.serving.engine import Engine
from prismrec.serving.history_store import open_store
from prismrec.serving.operations import ENGINE_OPERATIONS, Operation
from prismrec.serving.web import ApiKey, application

KEY = "b7e1-the-key"
OPERATIONS = (*ENGINE_OPERATIONS, *users.operations(lambda: None))
POSTS = sorted(operation.path for operation in OPERATIONS if operation.method == "POST")
SHORT, LONG = 60, 2_000  # requests from the document, all operations together
SHORT_RAW, LONG_RAW = 200, 10_000
SECRETS = ["Traceback", 'File "', "site-packages", "/src/", "prismrec.serving", KEY]
MOST_QUERY = 5_000  # characters; the test's client takes no more than so many bytes
NO_ROUTE = (404, 405)  # a user's id with a slash in it is another path

load_all_checks()
KEPT = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


@pytest.fixture(scope="module")
def secrets(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What no answer may hold."""
    return [*SECRETS, str(bundle_folder), str(tmp_path_factory.getbasetemp())]


@pytest.fixture(scope="module")
def client(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with everything: added items, a store of histories, the page, a key."""
    folder = tmp_path_factory.mktemp("fuzz")
    engine = Engine.load(bundle_folder, folder / "added")
    store = open_store(f"sqlite:///{folder}/events.db")
    assert store is not None
    operations = (*ENGINE_OPERATIONS, *users.operations(lambda: store))
    app = ApiKey(application(lambda: engine, operations, explorer.routes()), KEY)
    yield TestClient(app, headers={"X-API-Key": KEY}, raise_server_exceptions=False)
    store.close()


@pytest.fixture(scope="module")
def described(client: TestClient) -> Any:
    """The OpenAPI document, as schemathesis reads it."""
    return schemathesis.openapi.from_dict(client.get("/docs.json").json())


def examples(number: int) -> Callable[[Any], Any]:
    """So many, the same ones every time; one that fails is shown as it is."""
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


def check(answer: Any, secrets: list[str]) -> None:
    """What holds of every answer to a POST, and of all others but those without a route."""
    assert answer.status_code < 500, answer.text
    for word in secrets:
        assert word not in answer.text
    assert answer.headers["content-type"] == "application/json"
    if answer.status_code == 200:
        return
    content = answer.json()
    assert content["error"]
    assert content["detail"]
    for problem in content["detail"]:
        assert set(problem) == {"loc", "msg", "type"}
        assert problem["msg"]


def ask_from_the_document(
    client: TestClient, described: Any, secrets: list[str], operation: Operation, number: int
) -> None:
    cases = [
        described[operation.path][operation.method].as_strategy(generation_mode=mode)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ]

    @examples(number)
    @given(case=st.one_of(cases))
    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        assume(len(str(sent.get("params"))) < MOST_QUERY)
        body = json.dumps(sent["json"]).encode() if "json" in sent else sent.get("data")
        answer = client.request(case.method, sent["url"], params=sent.get("params"), content=body)
        if answer.status_code in NO_ROUTE and operation.method != "POST":
            assert not any(word in answer.text for word in secrets)
            return
        check(answer, secrets)
        case.validate_response(answer, checks=KEPT)

    ask()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_requests_made_from_the_document(
    client: TestClient, described: Any, secrets: list[str], operation: Operation
) -> None:
    ask_from_the_document(client, described, secrets, operation, SHORT // len(OPERATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_many_requests_made_from_the_document(
    client: TestClient, described: Any, secrets: list[str], operation: Operation
) -> None:
    ask_from_the_document(client, described, secrets, operation, -(-LONG // len(OPERATIONS)))


VALID = [
    b'{"history": ["i1", "i2"], "timestamps": [1, 2], "now": 3, "k": 3, "model": "gemirec", "diversity": 0.5}',
    b'{"history": [{"title": "robots", "description": "quiet", "categories": ["Horror"]}], "novelty": 2.5}',
    b'{"requests": [{"history": ["i1"]}, {"history": []}]}',
    b'{"item": {"title": "quiet"}, "k": 2}',
    b'{"user": "ada", "events": [{"item_id": "i1", "timestamp": 9}]}',
    b'{"items": [{"item_id": "x", "title": "Film"}]}',
]
NASTY = [
    b"",
    b"\xef\xbb\xbf{}",
    '{"history": []}'.encode("utf-16"),
    b'{"history": ["\\ud800"]}',
    b'{"history": ["\\u0000", "../../etc/passwd", "%2e%2e%2f", "file:///etc/passwd"]}',
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b'{"history": [' + b"[" * 5_000 + b"]" * 5_000 + b"]}",
    b'{"history": [], "k": 1' + b"0" * 10_000 + b"}",
    b'{"history": [], "diversity": 1e999, "novelty": -1e999}',
    b'{"history": [], "now": -9223372036854775809}',
    b'{"history": [], "k": 1, "k": 2}',
    b'{"history": ' + json.dumps([f"x{n}" for n in range(10_001)]).encode() + b"}",
    b'{"history": ' + json.dumps(["i1"] * 10_000).encode() + b"}",
    b'{"__class__": "os.system", "py/object": "os.system", "history": []}',
    b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    b"--x\r\nContent-Disposition: form-data; name=history\r\n\r\n1\r\n--x--\r\n",
]
KINDS = ["application/json", "text/plain", "multipart/form-data; boundary=x", "application/vnd.bentoml+pickle", "\x01"]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A valid body with a piece cut out, and others put in."""
    body = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        stop = draw(st.integers(start, min(len(body), start + 8)))
        body = (
            body[:start]
            + draw(st.binary(max_size=4) | st.sampled_from([b"[", b"}", b'"', b"NaN", b"1e400"]))
            + (body[stop:])
        )
    return body


RAW = st.one_of(spoilt(), spoilt(), st.binary(max_size=300), st.sampled_from([*NASTY, *VALID]))


def send_raw(client: TestClient, secrets: list[str], number: int) -> None:
    @examples(number)
    @given(path=st.sampled_from(POSTS), kind=st.sampled_from(KINDS), body=RAW)
    def send(path: str, kind: str, body: bytes) -> None:
        check(client.post(path, content=body, headers={"Content-Type": kind}), secrets)

    send()


def test_raw_bodies(client: TestClient, secrets: list[str]) -> None:
    send_raw(client, secrets, SHORT_RAW)


@pytest.mark.slow
def test_many_raw_bodies(client: TestClient, secrets: list[str]) -> None:
    send_raw(client, secrets, LONG_RAW)


@pytest.mark.parametrize("body", NASTY, ids=lambda body: repr(body[:20]))
def test_every_nasty_body_is_answered(client: TestClient, secrets: list[str], body: bytes) -> None:
    for path in POSTS:
        check(client.post(path, content=body), secrets)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/explorer/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/explorer/../service.py",
        "/explorer/%00",
        "/recommend/..%2f..%2fevents.db",
        "/items?query=../../etc/passwd&id=../../etc/passwd",
        "/docs.json/../../manifest.json",
    ],
)
def test_no_path_leads_out_of_the_service(client: TestClient, secrets: list[str], path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (200, 400, 404)
    assert not any(word in answer.text for word in (*secrets, "root:", "import "))


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "TRACE", "OPTIONS", "BREW"])
def test_other_methods_are_refused(client: TestClient, secrets: list[str], method: str) -> None:
    answer = client.request(method, "/recommend")
    assert answer.status_code == 405
    assert not any(word in answer.text for word in secrets)
