"""Faults on the real server: rude clients, a killed worker, a stop in the middle. Others get their answers, unchanged.

The server has two workers. Bodies have two seconds to arrive here, so that tests need not wait for ten.
"""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from benchmarks.serving import alike

from prismrec.serving import web
from prismrec.serving.engine import Engine
from prismrec.serving.operations import ENGINE_OPERATIONS
from prismrec.serving.web import MAX_BODY

PROJECT = Path(__file__).parents[2]
QUESTION = {"history": ["i1", "i2"], "k": 3}
LARGE = {"requests": [{"history": ["i1"], "k": 200}] * 64}  # its answer is about half a megabyte
SLOW = {"requests": [{"history": [f"i{n % 59}" for n in range(1_000)]}] * 64}  # a second or so
BODY_SECONDS = 2.0


class Server(NamedTuple):
    """A running service."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, body: Any, path: str = "/recommend") -> tuple[int, Any]:
        """Status and content of the answer, over a connection of its own."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def workers(self) -> list[int]:
        """Process ids of those that answer."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie counts as gone
                if "_bentoml_impl.worker.service" in " ".join(child.cmdline()):
                    found.append(child.pid)
        return sorted(found)

    def is_up(self) -> bool:
        """Whether it says that it is ready."""
        address = f"http://127.0.0.1:{self.port}/readyz"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return True
        return False


@contextlib.contextmanager
def serving(bundle: Path, folder: Path, workers: int) -> Iterator[Server]:
    """The service until the block ends, ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "FAULTS_BUNDLE": str(bundle),
        "FAULTS_BODY_SECONDS": str(BODY_SECONDS),
        "OMP_NUM_THREADS": "1",
        "PRISMREC_ITEMS": str(folder / "items"),
        "PRISMREC_WORKERS": str(workers),
        "PYTHONPATH": f"{PROJECT / 'src'}{os.pathsep}{PROJECT / 'tests'}",
    }
    command = [sys.executable, "-m", "bentoml", "serve", "serving.faults_entry:PrismrecService"]
    with (folder / "server.log").open("wb") as log:
        options = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(folder)]
        process = subprocess.Popen([*command, *options], cwd=folder, env=environment, stdout=log, stderr=log)
    server = Server(port, process, folder / "server.log")
    try:
        wait_for(server.is_up, server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def wait_for(done: Any, server: Server) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle_folder, tmp_path_factory.mktemp("faults"), workers=2) as started:
        wait_for(lambda: len(started.workers()) == 2, started)
        yield started
        assert "Traceback" not in started.log.read_text()


@pytest.fixture(scope="module")
def expected(server: Server) -> Any:
    status, content = server.ask(QUESTION)
    assert status == 200
    return content


def head(length: int, path: str = "/recommend") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def abort(connection: socket.socket) -> None:
    """Close with a reset, as a client does that crashed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_slow_clients_hold_nobody_up(server: Server, expected: Any) -> None:
    stalled = [server.connect() for _ in range(150)]
    for connection in stalled:
        connection.sendall(head(1_000) + b'{"history"')
    for _ in range(5):
        assert server.ask(QUESTION) == (200, expected)
    started = time.monotonic()
    for connection in stalled:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()
    assert time.monotonic() - started < 10 * BODY_SECONDS  # all at once, not one after the other


def test_a_client_that_trickles_is_cut_off(server: Server) -> None:
    """A byte now and then is no progress: the body as a whole has its time."""
    with server.connect() as connection:
        connection.sendall(head(1_000))
        with contextlib.suppress(OSError):
            for _ in range(int(4 * BODY_SECONDS)):
                connection.sendall(b" ")
                time.sleep(0.3)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_bodies_too_large_are_refused_by_their_length_or_on_the_way(server: Server, expected: Any) -> None:
    with server.connect() as connection:
        connection.sendall(head(MAX_BODY + 1))  # nothing of it is waited for
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(2 * MAX_BODY // 2**20):
            connection.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert server.ask(QUESTION) == (200, expected)


def test_clients_that_go_away(server: Server, expected: Any) -> None:
    """In the middle of a head, of a body, of the computing, and of the answer."""
    body = json.dumps(LARGE).encode()
    for number in range(10):
        with server.connect() as connection:
            connection.sendall(head(1_000)[: 6 * number])
        connection = server.connect()
        connection.sendall(head(1_000) + b'{"history"')
        abort(connection)
        if number < 2:
            connection = server.connect()
            connection.sendall(head(len(body), "/recommend_batch") + body)
            if number:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            abort(connection)
    assert server.ask(QUESTION) == (200, expected)


def test_requests_one_after_the_other_on_one_connection_are_not_mixed_up(server: Server, expected: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for number in range(6):
        body = json.dumps(QUESTION if number % 2 else {"history": 1})
        connection.request("POST", "/recommend", body)
        answer = connection.getresponse()
        content = json.load(answer)
        assert (answer.status, content if number % 2 else None) == ((200, expected) if number % 2 else (400, None))
    connection.close()


def test_more_requests_than_may_wait_are_told_to_come_back(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_WAITING", 3)
    engine, busy = Engine.load(bundle_folder), threading.Event()

    def slow() -> Engine:
        busy.wait(60)
        return engine

    async def ask_ten() -> list[httpx.Response]:
        transport = httpx.ASGITransport(web.application(slow, ENGINE_OPERATIONS))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = []
            for _ in range(10):
                asked.append(asyncio.create_task(client.post("/recommend", json=QUESTION)))
                await asyncio.sleep(0.05)
            busy.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(ask_ten())
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 6  # one at work, three waiting
    refused = next(answer.json() for answer in answers if answer.status_code == 429)
    assert set(refused) == {"error", "detail"}


def kill_under_load(server: Server, expected: Any, kills: int) -> None:
    """Kill workers with SIGKILL while four clients ask; every answer that comes is right, and new workers come."""
    stop = threading.Event()
    wrong: list[Any] = []
    counts = {"answered": 0, "lost": 0}

    def client() -> None:
        while not stop.is_set():
            try:
                answer = server.ask(QUESTION)
            except (OSError, http.client.HTTPException):
                counts["lost"] += 1
                continue
            counts["answered"] += 1
            if answer[0] != 200 or not alike(answer[1], expected):  # it may be ranked together with others
                wrong.append(answer)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        for _ in range(kills):
            time.sleep(0.5)
            killed = server.workers()[0]
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda killed=killed: killed not in server.workers() and len(server.workers()) == 2, server)
            wait_for(server.is_up, server)
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert not wrong
    assert counts["answered"] > 10 * kills
    assert counts["lost"] <= 4 * kills  # what the killed worker had in its hands


def test_a_killed_worker_comes_back_and_no_answer_is_wrong(server: Server, expected: Any) -> None:
    kill_under_load(server, expected, 1)


@pytest.mark.slow
def test_workers_are_killed_again_and_again(server: Server, expected: Any) -> None:
    kill_under_load(server, expected, 5)


def test_requests_in_flight_are_answered_when_it_is_told_to_stop(bundle_folder: Path, tmp_path: Path) -> None:
    answers: list[int] = []
    with serving(bundle_folder, tmp_path, workers=1) as server:
        clients = [
            threading.Thread(target=lambda: answers.append(server.ask(SLOW, "/recommend_batch")[0])) for _ in range(4)
        ]
        for thread in clients:
            thread.start()
        time.sleep(0.2)
        assert len(answers) < len(clients), "they are answered already: make them larger"
        server.process.send_signal(signal.SIGTERM)
        for thread in clients:
            thread.join()
        assert server.process.wait(timeout=60) == 0
    assert answers == [200] * 4
    assert "Traceback" not in server.log.read_text()
