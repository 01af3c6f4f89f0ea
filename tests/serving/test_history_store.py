"""Both stores by one set of tests: order, repeats, limits, what is remembered and what is forgotten."""

import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prismrec.errors import UserError
from prismrec.serving import history_store
from prismrec.serving.history_store import HistoryStore, StoredEvent, StoreUnavailable, open_store

A, B, C = (StoredEvent(item, second) for item, second in (("a", 10), ("b", 20), ("c", 20)))
# Item ids and users that a store might trip over.
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6) | st.sampled_from(
    ["a", "1:2", "{x}", "%2F", "\0"]
)
EVENTS = st.lists(st.builds(StoredEvent, NAMES, st.integers(0, 3) | st.integers(0, 2**40 - 1)), max_size=12)

WORKER = """
import sys
from prismrec.serving import history_store
from prismrec.serving.history_store import StoredEvent, open_store
history_store.WAIT = 30.0
store = open_store(sys.argv[1])
for place in range(150):
    store.add("ada", [StoredEvent(f"{sys.argv[2]}-{place}", place), StoredEvent("both", place)])
    store.history("ada")
    store.remember("ada", "key", b"value")
store.close()
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share their cores: nobody gives up early."""
    monkeypatch.setattr(history_store, "WAIT", 30.0)


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server of our own, once it answers."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("needs the program redis-server")
    pytest.importorskip("redis", reason="needs the redis extra")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                assert time.monotonic() < deadline, "redis-server does not start"
                time.sleep(0.02)
        yield server
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with redis_server(tmp_path_factory.mktemp("redis"), port):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/events.db"
    found: str = request.getfixturevalue("redis_url")
    import redis

    redis.Redis.from_url(found).flushall()
    return found


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    opened = open_store(url)
    assert opened is not None
    yield opened
    opened.close()


def test_events_come_back_by_time_then_by_arrival(store: HistoryStore) -> None:
    assert store.add("ada", [C, B]) == 2
    assert store.add("ada", [A]) == 1
    assert store.history("ada") == [A, C, B]
    assert store.history("bob") == []


def test_an_event_sent_twice_is_kept_once(store: HistoryStore) -> None:
    assert store.add("ada", [A, B]) == 2
    assert store.add("ada", [A, B, C, C]) == 1
    assert store.history("ada") == [A, B, C]


def test_the_newest_events_stay(store: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_store, "MAX_HISTORY", 3)
    events = [StoredEvent(str(second), second) for second in (5, 1, 4, 2, 3)]
    store.add("ada", events)
    assert [event.timestamp for event in store.history("ada")] == [3, 4, 5]
    store.add("ada", [StoredEvent("late", 2)])
    assert [event.timestamp for event in store.history("ada")] == [3, 4, 5]
    store.add("ada", [StoredEvent("x", 5), StoredEvent("y", 5)])
    assert [event.item_id for event in store.history("ada")] == ["5", "x", "y"]


def test_what_is_remembered_needs_its_key(store: HistoryStore) -> None:
    store.add("ada", [A])
    assert store.recall("ada", "one") is None
    store.remember("ada", "one", b"\0first")
    assert store.recall("ada", "one") == b"\0first"
    assert store.recall("ada", "two") is None
    store.remember("ada", "two", b"second")
    assert store.recall("ada", "one") is None
    assert store.recall("ada", "two") == b"second"


def test_new_events_drop_what_is_remembered(store: HistoryStore) -> None:
    store.add("ada", [A])
    store.remember("ada", "key", b"value")
    store.add("ada", [A])
    assert store.recall("ada", "key") == b"value"
    store.add("ada", [B])
    assert store.recall("ada", "key") is None


def test_a_user_is_forgotten_whole(store: HistoryStore) -> None:
    store.add("ada", [A, B])
    store.add("bob", [C])
    store.remember("ada", "key", b"value")
    assert store.forget("ada") == 2
    assert store.history("ada") == []
    assert store.recall("ada", "key") is None
    assert store.forget("ada") == 0
    assert store.history("bob") == [C]


def test_an_answer_on_its_way_leaves_no_trace_of_the_forgotten(store: HistoryStore) -> None:
    store.add("ada", [A])
    store.forget("ada")
    store.remember("ada", "key", b"value")
    store.add("ada", [A])
    assert store.recall("ada", "key") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(user=NAMES, batches=st.lists(EVENTS, max_size=4))
def test_a_store_is_a_stable_sort_without_repeats(
    store: HistoryStore, user: str, batches: list[list[StoredEvent]]
) -> None:
    store.forget(user)
    for batch in batches:
        store.add(user, batch)
    once = dict.fromkeys(event for batch in batches for event in batch)
    assert store.history(user) == sorted(once, key=lambda event: event.timestamp)


def test_two_processes_share_a_store(store: HistoryStore, url: str) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, url, name]) for name in ("x", "y")]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    items = [event.item_id for event in store.history("ada")]
    for name in ("x", "y"):
        assert [item for item in items if item.startswith(name)] == [f"{name}-{place}" for place in range(150)]
    assert items.count("both") == 150


def test_histories_survive_a_new_process(url: str) -> None:
    for expected in ([], [A]):
        store = open_store(url)
        assert store is not None
        assert store.history("ada") == expected
        store.add("ada", [A])
        store.close()


def test_the_file_keeps_nothing_of_the_forgotten(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/events.db")
    assert store is not None

    def traces() -> list[str]:
        return [file.name for file in tmp_path.iterdir() if b"ada-lovelace" in file.read_bytes()]

    store.add("ada-lovelace", [A] * 3)
    store.remember("ada-lovelace", "key", b"value")
    assert traces()
    store.forget("ada-lovelace")
    assert traces() == []
    assert (tmp_path / "events.db").stat().st_mode & 0o077 == 0


def test_a_store_that_does_not_answer_says_so_without_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_store, "WAIT", 0.05)
    store = open_store(f"sqlite:///{tmp_path}/events.db")
    assert store is not None
    busy = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable) as refused:
        store.add("ada", [A])
    assert str(tmp_path) not in str(refused.value)
    busy.execute("ROLLBACK")
    assert store.add("ada", [A]) == 1


def test_without_a_url_there_is_no_store() -> None:
    assert open_store(None) is None
    assert open_store("") is None


@pytest.mark.parametrize("url", ["mysql://root:secret@host/db", "sqlite://", "sqlite:///", "events.db"])
def test_another_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UserError, match="sqlite:///FILE") as refused:
        open_store(url)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("not a database, but long enough to look like one" * 20)
    with pytest.raises(UserError, match="cannot be opened"):
        open_store(f"sqlite:///{tmp_path}/events.db")


def test_redis_may_be_started_anew(tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, port):
        store = open_store(f"redis://127.0.0.1:{port}/0")
        assert store is not None
        assert store.add("ada", [A]) == 1
    with pytest.raises(StoreUnavailable):
        store.history("ada")
    with redis_server(tmp_path, port):
        assert store.history("ada") == []
        assert store.add("ada", [A]) == 1


def test_redis_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_store, "WAIT", 1.0)
    port = free_port()
    with redis_server(tmp_path, port) as server:
        store = open_store(f"redis://127.0.0.1:{port}/0")
        assert store is not None
        server.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.history("ada")
        assert time.monotonic() - started < 15
        server.send_signal(signal.SIGCONT)


def test_redis_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis", reason="needs the redis extra")
    with pytest.raises(UserError, match="Redis does not answer") as refused:
        open_store("redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(refused.value)
