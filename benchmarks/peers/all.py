"""Run all cells of some data sets one after another; what is there is not run again.

    python -m benchmarks.peers.all --env ml1m --env beauty --work /tmp/peers
    python -m benchmarks.peers.all --env ml1m --work /tmp/peers --peers rectools_sasrec rectools_ease

WORK/exchange holds the splits, WORK/cells what peers hand in. Peers run in `.venv-peers` and `.venv-recbole` (see
benchmarks/README.md), one at a time, on all cores unless OMP_NUM_THREADS says otherwise. A cell that fails, or does
not end, says so in its JSON, and the next one runs; it is run again with --retry only. Our own rows follow: untuned,
trained in WORK/untuned, and those of the environment's workspace, where `evaluation` has run. The scores are written at
the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peers import ours
from benchmarks.peers.cells import cell_path, read_cell, stands, write_cell
from benchmarks.peers.exchange import Exchange, read_exchange, write_exchange
from benchmarks.peers.prepare import PROJECT, load
from benchmarks.peers.registry import PEERS
from benchmarks.peers.run import DEFAULT_SECONDS, DEFAULT_SEED, DEFAULT_TRIALS, identity_of
from benchmarks.peers.score import RESULTS, score_all

GRACE = 3600  # seconds beyond the budget: the peer's preparation, its last validation, recommending


def exchanges(environments: list[str], folder: Path) -> list[tuple[Path, Exchange]]:
    """Prepare what is not there yet, or was made from another split."""
    found = []
    for environment in environments:
        exchange = load(environment)
        path = folder / exchange.about["name"]
        if not path.is_dir() or read_exchange(path).about != exchange.about:
            write_exchange(path, exchange)
        found.append((path, exchange))
    return found


def run_peer(name: str, data: Path, exchange: Exchange, cells: Path, options: argparse.Namespace, seed: int) -> str:
    """Run one cell in the peer's environment; return what became of it."""
    peer = PEERS[name]
    identity = identity_of(name, peer, exchange, (options.trials, options.budget_seconds), seed)
    path = cell_path(cells, identity["data_set"], name, seed)
    committed = cell_path(options.results, identity["data_set"], name, seed)
    there = [cell for cell in map(read_cell, (path, committed)) if cell and stands(cell, identity)]
    if any(not (options.retry and "failed" in cell) for cell in there):
        return "is there"
    python = PROJECT / peer.environment / "bin" / "python"
    if not python.exists():
        return f"skipped: {peer.environment} is not installed"
    command = [
        python, "-m", "benchmarks.peers.run", "--peer", name, "--data", data.resolve(), "--out", cells.resolve(),
        "--budget-seconds", options.budget_seconds, "--trials", options.trials, "--seed", seed,
    ]  # fmt: skip
    limit = options.trials * options.budget_seconds + GRACE
    log = path.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    if options.retry and there:
        path.unlink(missing_ok=True)  # a failed cell, which would stand
    try:
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.run(
                [str(part) for part in command], cwd=PROJECT, stdout=stream, stderr=stream, timeout=limit, check=False
            )
    except subprocess.TimeoutExpired:
        write_cell(path, {**identity, "failed": f"did not end within {limit:g} s"})
        return "did not end"
    if process.returncode and not stands(read_cell(path), identity):  # killed, before it could say why
        write_cell(path, {**identity, "failed": f"ended with {process.returncode}, without a word"})
    return "done" if process.returncode == 0 else f"failed, see {log}"


def run_untuned(environment: str, options: argparse.Namespace) -> str:
    """Run our untuned row in a process and workspaces of its own; return what became of it."""
    log = options.work / f"untuned-{environment}.log"
    command = [
        sys.executable, "-m", "benchmarks.peers.untuned", "--env", environment, "--results", options.results.resolve(),
        "--exchange", (options.work / "exchange").resolve(), "--out", (options.work / "cells").resolve(),
        "--workspaces", (options.work / "untuned").resolve(),
    ]  # fmt: skip
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.run(
            [str(part) for part in command], cwd=PROJECT, stdout=stream, stderr=stream, check=False
        )
    return "done" if process.returncode == 0 else f"failed, see {log}"


def main() -> None:
    """Run everything, then score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", required=True, help="Kedro environment; may be given several times")
    parser.add_argument("--work", type=Path, required=True, help="folder for splits and cells, outside the repository")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="default: all")
    parser.add_argument("--budget-seconds", type=float, default=DEFAULT_SECONDS, help="seconds a trial may train")
    parser.add_argument("--trials", type=int, default=DEFAULT_TRIALS, help="how many of a peer's settings to try")
    parser.add_argument("--retry", action="store_true", help="run cells again that failed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[DEFAULT_SEED])
    parser.add_argument("--results", type=Path, default=RESULTS / "peers", help="where scored cells are committed")
    options = parser.parse_args()
    sets = exchanges(options.env, options.work / "exchange")
    peers = sorted(options.peers, key=lambda name: PEERS[name].family)  # what is fitted in seconds comes first
    todo = [(data, x, name, seed) for data, x in sets for seed in options.seeds for name in peers]
    for number, (data, exchange, name, seed) in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {time.strftime('%H:%M:%S')} {data.name} {name} {seed}: ", end="", flush=True)
        print(run_peer(name, data, exchange, options.work / "cells", options, seed), flush=True)
    for environment in options.env:
        print(f"{environment}, our own rows:", flush=True)
        print(ours.write_environment(environment, options.work / "exchange", options.work / "cells"), flush=True)
        print(f"{environment}, HyMiRec untuned: {run_untuned(environment, options)}", flush=True)
    score_all(options.work / "exchange", options.work / "cells", options.results)


if __name__ == "__main__":
    main()
