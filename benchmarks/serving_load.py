"""Constant load on the real service: latency, errors, memory, beside a no-op endpoint in the same run.

    python -m benchmarks.serving_load --bundle FOLDER --output benchmarks/results/serving_load.json

Stores the bundle, builds its Bento, runs `bentoml serve`, and asks `POST /recommend` at a constant rate (histories like
MovieLens-1M's), whether or not answers come: what queues counts as latency. Meanwhile `GET /livez`, the no-op endpoint
of the same service, is asked at a fifth of the rate. The same request has to get the same answer every time, numbers to
1e-5. Memory is that of all processes of the service, once a second.

Notable: client and service share this machine; an asyncio client costs a core about a millisecond a request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import Answer, Started, alike, bento, bodies, machine, milliseconds, new_client, resident, store
from benchmarks.serving import open_loop as at_rate

LIMITS = {"p99_ms": 50.0, "p99_of_noop": 10.0, "errors": 0, "growth_share": 0.02}
USERS = 300  # different requests
SETTLE = 0.2  # share of the run after which memory has to stay as it is
NOOP_SHARE = 0.2


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the command; returns the figures."""
    options = parse(arguments)
    with store(options.bundle) as (tag, variables):
        variables |= {"PRISMREC_WORKERS": str(options.workers)}
        with bento(tag, variables) as service:
            report = asyncio.run(load(service, bodies(options.bundle, USERS, options.seed), options))
    report["machine"] = machine()
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle's folder")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", help="of the bundle; its default if not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


async def load(service: Started, requests: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """The run: requests, no-op requests and memory side by side, after a second of warm-up."""
    if options.model is not None:
        requests = [json.dumps({**json.loads(body), "model": options.model}).encode() for body in requests]
    async with new_client(service.address) as client:

        async def ask(number: int) -> httpx.Response:
            return await client.post("/recommend", content=requests[number % len(requests)])

        async def noop(_: int) -> httpx.Response:
            return await client.get("/livez")

        await at_rate(ask, options.rate, 1.0)
        idle = await at_rate(noop, options.rate, 2.0)
        watching = asyncio.create_task(_watch(service.pid))
        answers, noops = await asyncio.gather(
            at_rate(ask, options.rate, options.seconds),
            at_rate(noop, options.rate * NOOP_SHARE, options.seconds),
        )
        watching.cancel()
        memory = await watching
    return {**summary(answers, noops, memory, len(requests)), "noop_idle_ms": milliseconds(idle)} | {
        "rate": options.rate,
        "seconds": options.seconds,
        "workers": options.workers,
    }


async def _watch(pid: int) -> list[int]:
    """Bytes, once a second until cancelled."""
    seen: list[int] = []
    try:
        while True:
            seen.append(await asyncio.to_thread(resident, pid))
            await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        return seen


def summary(answers: list[Answer], noops: list[Answer], memory: list[int], users: int) -> dict[str, Any]:
    """Figures of one run."""
    latency, noop = milliseconds(answers), milliseconds(noops)
    settled = memory[int(SETTLE * len(memory)) :]
    quarter = max(len(settled) // 4, 1)
    first, last = float(np.mean(settled[:quarter])), float(np.mean(settled[-quarter:]))
    first_body: dict[int, bytes] = {}
    for number, answer in enumerate(answers):
        if answer.status == 200:
            first_body.setdefault(number % users, answer.body)
    return {
        "requests": len(answers),
        "statuses": {str(status): count for status, count in sorted(Counter(a.status for a in answers).items())},
        "errors": sum(answer.status != 200 for answer in answers),
        "other_answers": sum(
            answer.status == 200 and not _same(answer.body, first_body[number % users])
            for number, answer in enumerate(answers)
        ),
        "latency_ms": latency,
        "noop_ms": noop,
        "p99_of_noop": latency["p99"] / noop["p99"],
        "memory_mb": [round(value / 1e6, 1) for value in memory[:: max(len(memory) // 60, 1)]],
        "memory_growth_share": last / first - 1.0,
    }


def _same(body: bytes, first: bytes) -> bool:
    return body == first or alike(json.loads(body), json.loads(first))


def as_table(report: dict[str, Any]) -> str:
    """The figures, and whether they keep the limits."""
    lines = [f"{'ms':22}{'p50':>9}{'p95':>9}{'p99':>9}"]
    for key, name in (("latency_ms", "/recommend"), ("noop_ms", "no-op, meanwhile"), ("noop_idle_ms", "no-op, idle")):
        lines.append(f"{name:22}" + "".join(f"{report[key][column]:9.2f}" for column in ("p50", "p95", "p99")))
    checks = (
        ("p99", report["latency_ms"]["p99"], LIMITS["p99_ms"]),
        ("p99 / no-op's p99", report["p99_of_noop"], LIMITS["p99_of_noop"]),
        ("errors", report["errors"], LIMITS["errors"]),
        ("other answers", report["other_answers"], 0),
        ("growth of memory", report["memory_growth_share"], LIMITS["growth_share"]),
    )
    for name, value, limit in checks:
        lines.append(f"{name:22}{value:9.3f}   at most {limit:g}: {'kept' if value <= limit else 'BROKEN'}")
    lines.append(f"statuses: {report['statuses']}, memory MB: {report['memory_mb'][0]} → {report['memory_mb'][-1]}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_table(main()))
