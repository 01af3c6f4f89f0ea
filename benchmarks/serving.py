"""The real service for the benchmarks: started on a bundle, asked by an asyncio client on the same machine.

Histories are like MovieLens-1M's (lengths log-normal with a median of 96, from 20 to 2,300 events, a few sessions) over
whatever catalogue the bundle has, popular items more often.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import httpx
import numpy as np
import psutil

READY_SECONDS = 180.0
AT_REST = 0.05  # seconds that a service computes in one where nobody asks
MEDIAN_LENGTH, SPREAD, SHORTEST, LONGEST = 96.0, 0.95, 20, 2_300
TIMEOUT = 30.0  # seconds of one request
SAME_NUMBER = 1e-5  # requests that wait are ranked together, which may move the last digits


class Started(NamedTuple):
    """A running service."""

    address: str
    pid: int
    ready_seconds: float  # from its start until it said that it is ready


class Answer(NamedTuple):
    """Seconds from when the request was due to its whole answer, status (0: none came), and the answer."""

    seconds: float
    status: int
    body: bytes


@contextlib.contextmanager
def store(bundle: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The tag of a Bento with this bundle, and the variables that find it, in a store that lives as long as this."""
    from prismrec.pipelines.packaging.nodes import store_model_and_build_bento

    with tempfile.TemporaryDirectory(prefix="prismrec-bench-") as folder:
        variables = {"BENTOML_HOME": str(Path(folder) / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
        os.environ.update(variables)
        yield store_model_and_build_bento(bundle)["bento"], variables


@contextlib.contextmanager
def bento(tag: str, variables: dict[str, str], python: str = sys.executable) -> Iterator[Started]:
    """`bentoml serve` of a Bento, by some environment's Python, until the block ends."""
    port = free_port()
    command = [python, "-m", "bentoml", "serve", tag, "--host", "127.0.0.1", "--port", str(port)]
    with running(command, port, variables) as started:
        yield started


@contextlib.contextmanager
def running(command: list[str], port: int, variables: dict[str, str]) -> Iterator[Started]:
    """A server that listens on a port of this machine, from its readiness to the end of the block.

    Raises:
        RuntimeError: it ended, or was not ready in time; with the end of its log.
    """
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            if not _becomes_ready(f"{address}/readyz", process):
                log.seek(0)
                raise RuntimeError(f"the service does not start:\n{log.read().decode()[-2000:]}")
            ready_seconds = time.perf_counter() - started
            _until_at_rest(process.pid)
            yield Started(address, process.pid, ready_seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _becomes_ready(address: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return True
        time.sleep(0.2)
    return False


def _until_at_rest(pid: int) -> None:
    """Wait until all workers have started: the first that is ready says so for all, and would get all connections."""
    deadline, before = time.monotonic() + READY_SECONDS, -1.0
    while time.monotonic() < deadline:
        computed = processor_seconds(pid)
        if computed - before < AT_REST:
            return
        before = computed
        time.sleep(1.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def bodies(bundle: Path, count: int, seed: int, k: int = 10) -> list[bytes]:
    """Requests of as many users."""
    from safetensors.numpy import load_file

    from prismrec.artifacts.bundle import read_bundle

    items = [item.item_id for item in read_bundle(bundle).items]
    share_N = load_file(bundle / "popularity.safetensors")["counts"] + 1.0
    random = np.random.default_rng(seed)
    lengths = MEDIAN_LENGTH * np.exp(SPREAD * random.standard_normal(count))
    found = []
    for length in lengths.clip(SHORTEST, min(LONGEST, len(items))).astype(int):
        history = random.choice(len(items), length, replace=False, p=share_N / share_N.sum())
        gaps = np.where(random.random(length) < 0.03, 86_400, 30)  # a new session now and then
        times = 970_000_000 + np.cumsum(gaps)
        body = {"history": [items[row] for row in history], "timestamps": times.tolist(), "k": k}
        found.append(json.dumps(body).encode())
    return found


class Reply(NamedTuple):
    """What came back; as httpx calls it."""

    status_code: int
    content: bytes


class LeanClient:
    """An asyncio client that costs a few tenths of a millisecond a request, so that the service is what is measured."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, path: str, body: bytes) -> Reply:
        """Send JSON."""
        async with self._session.post(path, data=body, headers={"Content-Type": "application/json"}) as response:
            return Reply(response.status, await response.read())


@contextlib.asynccontextmanager
async def lean_client(address: str) -> AsyncIterator[LeanClient]:
    """A client without bounds of its own."""
    timeout, connector = aiohttp.ClientTimeout(total=TIMEOUT), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(address, timeout=timeout, connector=connector) as session:
        yield LeanClient(session)


Ask = Callable[[int], Awaitable[Reply | httpx.Response]]


async def open_loop(ask: Ask, rate: float, seconds: float) -> list[Answer]:
    """Ask so many times a second, whether or not answers come; a late start counts as latency."""
    started = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(timed(ask, number, due)))
    return await asyncio.gather(*tasks)


async def closed_loop(ask: Ask, clients: int, seconds: float) -> list[Answer]:
    """Ask by so many clients at once, each as soon as it has its answer."""
    end = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            answers.append(await timed(ask, number, time.perf_counter()))
            number += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    return answers


async def timed(ask: Ask, number: int, due: float) -> Answer:
    try:
        response = await ask(number)
        return Answer(time.perf_counter() - due, response.status_code, response.content)
    except (httpx.HTTPError, aiohttp.ClientError, TimeoutError):
        return Answer(time.perf_counter() - due, 0, b"")


def alike(one: Any, other: Any) -> bool:
    """Whether two answers say the same: numbers may differ in the order their sums were taken in, all else may not."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= SAME_NUMBER
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def new_client(address: str) -> httpx.AsyncClient:
    """A client without bounds of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=address, timeout=TIMEOUT, limits=limits, trust_env=False)


def milliseconds(answers: list[Answer]) -> dict[str, float]:
    """Percentiles of the latency."""
    seconds = [answer.seconds for answer in answers]
    return {f"p{share}": 1e3 * float(np.percentile(seconds, share)) for share in (50, 95, 99)}


def resident(pid: int) -> int:
    """Bytes of memory of a process and all below it."""
    process = psutil.Process(pid)
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


def processor_seconds(pid: int) -> float:
    """What a process and all below it have computed so far."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {"processor": os.uname().machine, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
