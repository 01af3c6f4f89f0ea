"""Routes by user id: what is sent is recommended from, kept interests change no answer, and the forgotten are gone."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from prismrec.serving import users
from prismrec.serving.engine import Engine
from prismrec.serving.history_store import HistoryStore, StoreUnavailable, open_store
from prismrec.serving.meter import Meter
from prismrec.serving.operations import ENGINE_OPERATIONS
from prismrec.serving.web import application

NOW = 1_700_000_000
HISTORY = [("i3", 100), ("i7", 200), ("nobody's", 250), ("i11", 300)]


class CountingMeter(Meter):
    """Counts lookups of kept interests."""

    def __init__(self) -> None:
        self.interests: Counter[str] = Counter()

    def cache(self, cache: str, hits: int, misses: int) -> None:
        if cache == "interests":
            self.interests.update(hits=hits, misses=misses)


@pytest.fixture(scope="module")
def engine(bundle_folder: Path) -> Engine:
    return Engine.load(bundle_folder)


@pytest.fixture
def meter(engine: Engine) -> CountingMeter:
    engine.meter = CountingMeter()
    return engine.meter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    opened = open_store(f"sqlite:///{tmp_path}/events.db")
    assert opened is not None
    yield opened
    opened.close()


def client_of(engine: Callable[[], Engine], store: HistoryStore | None) -> TestClient:
    return TestClient(application(engine, (*ENGINE_OPERATIONS, *users.operations(lambda: store, lambda: NOW + 0.5))))


@pytest.fixture
def client(engine: Engine, store: HistoryStore) -> TestClient:
    return client_of(lambda: engine, store)


def send(client: TestClient, user: str, events: list[tuple[str, int]]) -> dict[str, Any]:
    body = {"user": user, "events": [{"item_id": item, "timestamp": second} for item, second in events]}
    answer = client.post("/events", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    "options",
    [{"k": 4, "temperature": 2.0}, {"k": 3, "exclude_seen": False}, {"categories": ["Drama"]}, {"now": 400}],
)
def test_a_user_gets_what_the_history_gets(client: TestClient, options: dict[str, Any]) -> None:
    assert send(client, "ada", HISTORY[2:]) == {"added": 2, "events": 2, "unknown_items": ["nobody's"]}
    assert send(client, "ada", HISTORY) == {"added": 2, "events": 4, "unknown_items": ["nobody's"]}
    body = {"history": [item for item, _ in HISTORY], "timestamps": [second for _, second in HISTORY], **options}
    expected = client.post("/recommend", json=body)
    assert expected.status_code == 200
    assert client.get("/recommend/ada", params=options).json() == expected.json()


def test_models_without_times_get_none(engine: Engine, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "timed", False)
    send(client, "ada", HISTORY)
    expected = client.post("/recommend", json={"history": [item for item, _ in HISTORY]}).json()
    assert client.get("/recommend/ada", params={"now": 400}).json() == expected
    assert expected["note"] is None  # the user did not send any


def test_a_stranger_gets_what_is_popular(client: TestClient) -> None:
    content = client.get("/recommend/nobody", params={"k": 2}).json()
    assert [item["title"] for item in content["items"]] == ["Film 0", "Film 1"]
    assert "most popular" in content["note"]


def test_events_without_times_happen_now(client: TestClient, store: HistoryStore) -> None:
    client.post("/events", json={"user": "ada", "events": [{"item_id": "i1"}, {"item_id": "i2", "timestamp": 5}]})
    assert store.history("ada") == [("i2", 5), ("i1", NOW)]


def test_kept_interests_change_no_answer(client: TestClient, meter: CountingMeter) -> None:
    send(client, "ada", HISTORY)
    options = {"model": "gemirec", "k": 5, "diversity": 0.4}
    first = client.get("/recommend/ada", params=options).json()
    assert meter.interests == {"hits": 0, "misses": 1}
    assert client.get("/recommend/ada", params=options).json() == first
    assert meter.interests == {"hits": 1, "misses": 1}
    body = {"history": [item for item, _ in HISTORY], "timestamps": [second for _, second in HISTORY], **options}
    expected = client.post("/recommend", json={**body, "num_interests": 3}).json()
    assert [interest["id"] for interest in first["interests"]] == [i["id"] for i in expected["interests"]]
    assert first["interests"][0]["dictionary"] == first["versions"]["dictionary"]
    for one, other in zip(first["items"], expected["items"], strict=True):
        assert one == {**other, "score": pytest.approx(other["score"], abs=1e-5)}


def test_another_number_of_interests_needs_no_new_posterior(client: TestClient, meter: CountingMeter) -> None:
    send(client, "ada", HISTORY)
    for number in (1, 2, 5):
        found = client.get("/recommend/ada", params={"model": "gemirec", "num_interests": number}).json()
        assert len(found["interests"]) == number
    assert meter.interests == {"hits": 2, "misses": 1}


def test_kept_interests_are_dropped_with_what_they_rest_on(
    client: TestClient, engine: Engine, meter: CountingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(**options: Any) -> str:
        before = meter.interests.copy()
        assert client.get("/recommend/ada", params={"model": "gemirec", **options}).status_code == 200
        return "hit" if meter.interests["hits"] > before["hits"] else "miss"

    send(client, "ada", HISTORY)
    assert [ask(), ask()] == ["miss", "hit"]
    send(client, "ada", HISTORY)
    assert ask() == "hit"  # nothing new
    send(client, "ada", [("i20", 350)])
    assert [ask(), ask()] == ["miss", "hit"]
    assert [ask(now=10**6), ask(now=10**6 + 1), ask(now=10**9)] == ["miss", "hit", "miss"]
    monkeypatch.setattr(engine.rankers["gemirec"], "dictionary", "another")
    assert [ask(), ask()] == ["miss", "hit"]
    monkeypatch.setattr(engine, "bundle", "another")
    assert [ask(), ask()] == ["miss", "hit"]


def test_the_forgotten_leave_nothing(client: TestClient, meter: CountingMeter) -> None:
    send(client, "ada", HISTORY)
    client.get("/recommend/ada", params={"model": "gemirec"})
    assert client.delete("/users/ada").json() == {"deleted_events": 4}
    assert "most popular" in client.get("/recommend/ada").json()["note"]
    assert client.delete("/users/ada").json() == {"deleted_events": 0}
    send(client, "ada", HISTORY)
    client.get("/recommend/ada", params={"model": "gemirec"})
    assert meter.interests["hits"] == 0


def test_any_user_id_fits_into_the_routes(client: TestClient) -> None:
    for user in ("ä b", "50%", "a?b#c", "q&k=3"):
        send(client, user, HISTORY)
        from urllib.parse import quote

        assert client.get(f"/recommend/{quote(user, safe='')}").json()["note"] is None
        assert client.delete(f"/users/{quote(user, safe='')}").json() == {"deleted_events": 4}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"user": "ada", "events": []}, "events is []"),
        ({"user": "", "events": [{"item_id": "i1"}]}, "user is"),
        ({"user": "a/b", "events": [{"item_id": "i1"}]}, "user is"),
        ({"user": "ada", "events": [{"item_id": 1}]}, "events.0.item_id is 1"),
        ({"user": "ada", "events": [{"item_id": "i1", "timestamp": -1}]}, "events.0.timestamp is -1"),
        ({"user": "ada", "events": [{"item_id": "i1", "time": 1}]}, "time is no field"),
        ({"events": [{"item_id": "i1"}]}, "user is missing"),
    ],
)
def test_wrong_events_are_refused(client: TestClient, store: HistoryStore, body: Any, text: str) -> None:
    answer = client.post("/events", json=body)
    assert answer.status_code == 400
    assert text in answer.json()["error"]
    assert store.history("ada") == []


def test_wrong_questions_are_refused(client: TestClient) -> None:
    send(client, "ada", HISTORY)
    for options, text in (({"k": 0}, "k is"), ({"topk": 3}, "topk is no field"), ({"now": 299}, "newest event, 300")):
        answer = client.get("/recommend/ada", params=options)
        assert answer.status_code == 400
        assert text in answer.json()["error"]


def test_without_a_store_the_routes_say_so(engine: Engine) -> None:
    client = client_of(lambda: engine, None)
    for answer in (
        client.post("/events", json={"user": "ada", "events": [{"item_id": "i1"}]}),
        client.get("/recommend/ada"),
        client.delete("/users/ada"),
    ):
        assert answer.status_code == 501
        assert "PRISMREC_HISTORY" in answer.json()["error"]


def test_a_store_that_is_down_is_said(client: TestClient, store: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(store, "history", down)
    answer = client.get("/recommend/ada")
    assert answer.status_code == 503
    assert answer.json()["error"] == "The history store does not answer. Try again soon."


def test_the_routes_are_documented(client: TestClient) -> None:
    paths = client.get("/docs.json").json()["paths"]
    assert {"/events", "/recommend/{user}", "/users/{user}"} <= set(paths)
    parameters = {one["name"]: one["in"] for one in paths["/recommend/{user}"]["get"]["parameters"]}
    assert parameters["user"] == "path"
    assert parameters["k"] == "query"
