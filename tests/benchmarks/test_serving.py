"""The benchmarks of the service without a server: loops, requests and figures. How fast it is, they tell, no test."""

import asyncio
import json
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from benchmarks.serving import Answer

from benchmarks import serving, serving_load, serving_speed, serving_start
from serving.bundles import parts  # type: ignore[import-not-found]  # of the tests


def test_requests_are_those_of_as_many_users_and_the_same_every_time(tmp_path: Path) -> None:
    parts().save(tmp_path / "bundle")
    requests = serving.bodies(tmp_path / "bundle", 20, seed=1)
    assert requests == serving.bodies(tmp_path / "bundle", 20, seed=1)
    for body in map(json.loads, requests):
        assert len(set(body["history"])) == len(body["history"]) == len(body["timestamps"])
        assert body["timestamps"] == sorted(body["timestamps"])


def test_a_stall_of_the_service_counts_for_everything_that_was_due_meanwhile() -> None:
    async def ask(number: int) -> httpx.Response:
        if number == 0:
            time.sleep(0.2)  # nothing else runs
        return httpx.Response(200)

    answers = asyncio.run(serving.open_loop(ask, rate=50, seconds=0.4))
    assert len(answers) == 20
    assert [answer.seconds > 0.05 for answer in answers[:8]] == [True] * 8


def test_a_lost_connection_is_an_error() -> None:
    async def ask(number: int) -> httpx.Response:
        raise httpx.ReadError("gone")

    assert {answer.status for answer in asyncio.run(serving.closed_loop(ask, 2, 0.01))} == {0}


def test_figures_of_a_load() -> None:
    bodies = b'["a", 0.5]', b'["b"]', b'["a", 0.500002]', b'["x"]'
    answers = [Answer(0.01, 200, body) for body in bodies]
    answers[1] = answers[1]._replace(seconds=0.03)
    memory = [900, *[100] * 8, 110, 110]
    report = serving_load.summary([*answers, Answer(1.0, 500, b"")], [Answer(0.001, 200, b"")], memory, users=2)
    assert (report["errors"], report["other_answers"], report["statuses"]) == (1, 1, {"200": 4, "500": 1})
    assert report["memory_growth_share"] == pytest.approx(0.1)
    report["noop_idle_ms"] = report["noop_ms"]
    assert serving_load.as_table(report).count("BROKEN") == 5


def test_figures_of_two_services() -> None:
    one = {"a_second": 60.0, "errors": 0, "latency_ms": {"p50": 1.0, "p99": 2.0}, "processor_ms": 3.0}
    rounds = {"ours": [one], "naive": [{**one, "a_second": 20.0}]}
    lists = {"ours": [["a", "b"], ["c"]], "naive": [["b", "a"], ["c"]]}
    report = serving_speed.summary(rounds, lists, ["b", "d"])
    assert report["times_naive"] == 3.0
    assert report["ndcg"] == {"ours": pytest.approx(0.5 / np.log2(3)), "naive": 0.5}
    assert "loss of NDCG@10" in serving_speed.as_table(report)


def test_sizes_and_starts_are_told(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(bytes(1_500_000))
    (tmp_path / "link").symlink_to(tmp_path / "deep/file")
    assert serving_start.megabytes(tmp_path) == 1.5
    one = {"ready_seconds": 4.0, "first_request_ms": 20.0, "memory_mb": 700.0}
    report = {"bundle_mb": 60.4, "bento_mb": 0.4, "starts": [one], "ready_seconds": 4.0}
    table = serving_start.as_table(report)
    assert "bundle: 60.4 MB" in table
    assert "environment" not in table
    assert "ready after 4.0 s, first request 20 ms" in table
