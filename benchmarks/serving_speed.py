"""Maximum throughput of the service against a naive one with the same models, and what its speed costs in quality.

    python -m benchmarks.serving_speed --bundle FOLDER --histories FOLDER --output benchmarks/results/serving_speed.json

Two services on one bundle: ours (`bentoml serve` of its Bento) and `benchmarks.naive_service`, eager fp32 as one
writes it. Clients that always have a request under way ask one service, then the other, in turns; the one that is not
asked only waits, so that neither takes the other's cores. The median round counts, for both.

Quality: both are asked for the same users without their last event, and NDCG@10 of that event in the two merged lists
is compared. `--histories` is the folder of a workspace's histories (`03_primary/histories`), by whose users all
requests are made; without it requests are made up, and the lists' overlap alone is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import (
    Reply,
    Started,
    bento,
    bodies,
    closed_loop,
    free_port,
    lean_client,
    machine,
    milliseconds,
    processor_seconds,
    running,
    store,
)

LIMITS = {"times_naive": 3.0, "ndcg_loss": 0.005}
USERS, JUDGED = 300, 1_000
CUT = 10


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the command; returns the figures."""
    options = parse(arguments)
    requests, targets = asked(options)
    rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "naive": []}
    lists: dict[str, list[list[str]]] = {}
    with store(options.bundle) as (tag, variables), ExitStack() as stack:
        services = {name: stack.enter_context(serving(name, tag, variables, options)) for name in rounds}
        for number in range(options.rounds):
            for name, service in services.items():
                found = asyncio.run(throughput(service, requests[:USERS], options))
                rounds[name].append(found)
                say(f"round {number + 1} of {options.rounds}, {name}: {found['a_second']:.1f} requests a second")
        for name, service in services.items():
            lists[name] = asyncio.run(answers(service, requests, options.clients))
            say(f"{name}: lists of {len(requests):,} users")
    report = summary(rounds, lists, targets)
    report |= {"clients": options.clients, "workers": options.workers, "model": options.model, "machine": machine()}
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle's folder")
    parser.add_argument("--histories", type=Path, help="users' real histories, of the same catalogue")
    parser.add_argument("--clients", type=int, default=32, help="enough that something always waits in every worker")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one round of one service")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes of ours; the naive one has BentoML's default")
    parser.add_argument("--model", help="of the bundle; its default if not given")
    parser.add_argument("--judged", type=int, default=JUDGED, help="users whose lists are compared")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


def asked(options: argparse.Namespace) -> tuple[list[bytes], list[str] | None]:
    """Requests, and the item that each user met next; None where users are made up."""
    if options.histories is None:
        return bodies(options.bundle, options.judged, options.seed), None
    from prismrec.artifacts.bundle import read_bundle
    from prismrec.data.histories import Histories

    histories, items = Histories.load(options.histories), read_bundle(options.bundle).items
    lengths_U = np.diff(histories.offsets)
    random = np.random.default_rng(options.seed)
    users = random.choice(np.flatnonzero(lengths_U > 1), options.judged, replace=False)
    requests, targets = [], []
    for user in users:
        events = slice(histories.offsets[user], histories.offsets[user + 1])
        ids = [items[row].item_id for row in histories.items[events]]
        times = histories.timestamps[events].tolist()
        requests.append(json.dumps({"history": ids[:-1], "timestamps": times[:-1], "k": CUT}).encode())
        targets.append(ids[-1])
    return requests, targets


@contextmanager
def serving(name: str, tag: str, variables: dict[str, str], options: argparse.Namespace) -> Iterator[Started]:
    """One of the two services."""
    if name == "ours":
        with bento(tag, {**variables, "PRISMREC_WORKERS": str(options.workers)}) as started:
            yield started
        return
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.naive_service:NaiveService"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    naive = {"NAIVE_BUNDLE": str(options.bundle.resolve()), "NAIVE_MODEL": options.model or "", "OMP_NUM_THREADS": ""}
    with running(command, port, {**variables, **naive}) as started:
        yield started


async def throughput(service: Started, requests: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Requests a second with all clients at work, after two seconds of warm-up."""
    async with lean_client(service.address) as client:

        async def ask(number: int) -> Reply:
            return await client.post("/recommend", requests[number % len(requests)])

        await closed_loop(ask, options.clients, 2.0)
        before = processor_seconds(service.pid)
        found = await closed_loop(ask, options.clients, options.seconds)
        computed = processor_seconds(service.pid) - before
    good = sum(answer.status == 200 for answer in found)
    return {
        "a_second": good / options.seconds,
        "errors": len(found) - good,
        "latency_ms": milliseconds(found),
        "processor_ms": 1e3 * computed / max(good, 1),
    }


async def answers(service: Started, requests: list[bytes], clients: int) -> list[list[str]]:
    """The merged list of every request."""
    turns = asyncio.Semaphore(clients)
    async with lean_client(service.address) as client:

        async def ask(body: bytes) -> list[str]:
            async with turns:
                answer = await client.post("/recommend", body)
            if answer.status_code != 200:
                raise RuntimeError(f"the service answers {answer.status_code}: {answer.content[:200]!r}")
            return [item["item_id"] for item in json.loads(answer.content)["items"]]

        return await asyncio.gather(*map(ask, requests))


def say(line: str) -> None:
    """How far the benchmark is."""
    print(line, file=sys.stderr, flush=True)


def summary(
    rounds: dict[str, list[dict[str, Any]]], lists: dict[str, list[list[str]]], targets: list[str] | None
) -> dict[str, Any]:
    """Throughput of the median round, and what the lists are worth."""
    middle = {name: statistics.median(one["a_second"] for one in found) for name, found in rounds.items()}
    overlap = [len({*ours} & {*naive}) / CUT for ours, naive in zip(lists["ours"], lists["naive"], strict=True)]
    report = {"rounds": rounds, "a_second": middle, "times_naive": middle["ours"] / middle["naive"]}
    report |= {"same_items": float(np.mean(overlap)), "users": len(overlap)}
    if targets is not None:
        report["ndcg"] = {name: ndcg(found, targets) for name, found in lists.items()}
        report["ndcg_loss"] = 1.0 - report["ndcg"]["ours"] / report["ndcg"]["naive"]
    return report


def ndcg(lists: list[list[str]], targets: list[str]) -> float:
    """Mean of 1 / log2(1 + place) of the one target, 0 where it is not in the list."""
    gains = [
        1.0 / np.log2(found.index(target) + 2) if target in found else 0.0
        for found, target in zip(lists, targets, strict=True)
    ]
    return float(np.mean(gains))


def as_table(report: dict[str, Any]) -> str:
    """The figures, and whether they keep the limits."""
    lines = [f"{'':8}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'errors':>8}{'cpu ms a request':>18}"]
    for name, found in report["rounds"].items():
        for one in found:
            latency = one["latency_ms"]
            lines.append(
                f"{name:8}{one['a_second']:12.1f}{latency['p50']:10.1f}{latency['p99']:10.1f}{one['errors']:8d}"
                f"{one['processor_ms']:18.2f}"
            )
    kept = report["times_naive"] >= LIMITS["times_naive"]
    lines.append(f"times the naive one's: {report['times_naive']:.2f}   at least 3: {'kept' if kept else 'BROKEN'}")
    lines.append(f"same items in the first ten: {report['same_items']:.4f} of {report['users']:,} users' lists")
    if "ndcg_loss" in report:
        kept = report["ndcg_loss"] <= LIMITS["ndcg_loss"]
        lines.append(f"loss of NDCG@10: {report['ndcg_loss']:.4%}   at most 0.5 %: {'kept' if kept else 'BROKEN'}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_table(main()))
