"""The ablation tables of HyMiRec and GemiRec: one command, one JSON a cell, resumable.

    python -m benchmarks.ablations --env demo --work data/ablations
    python -m benchmarks.ablations --env ml1m --work data/ablations --cells reference no_long_branch --seeds 1 2 3

Stages 1 and 2 run once, into WORK/workspaces-…; what stages 3 to 6 made lies in WORK/parts and is shared by the
cells. GemiRec's cells take the stages 3 to 5 of the cell `reference`, which therefore goes first.

Cells are written to benchmarks/results/ablations/<env>/<cell>-<seed>.json; one that is there is not run again as long
as split, parameters and code are the same. A cell runs in a process of its own, and is ended when it takes longer than
the budget; it then says so in its JSON, and is run again with --retry only. The tables follow, also with `--cells` and
no name.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.ablations.cells import CELLS, ENVIRONMENTS, GEMIREC, HYMIREC, settings_of, why_not
from benchmarks.ablations.make import Data, Parts, code_version, digest, measure_cell
from benchmarks.ablations.make_gemirec import CODE, GemiRecParts, measure_gemirec
from benchmarks.ablations.report import write_tables
from benchmarks.peers.cells import read_cell, write_cell
from benchmarks.peers.prepare import PROJECT, open_environment

RESULTS = Path(__file__).parents[1] / "results" / "ablations"
SEED = 20260101
MORE_CODE = {HYMIREC: (), GEMIREC: CODE}  # that a model's cells rest on
IDENTITY = ("environment", "cell", "seed", "split_hash", "settings", "code")


def prepare(environment: str, work: Path) -> dict[str, Any]:
    """Run stages 1 and 2 if that has not been done with these parameters; return all parameters, by stage."""
    from kedro.framework.session import KedroSession

    *_, parameters = open_environment(ENVIRONMENTS[environment])
    stages = ("data_validation", "sequence_building")
    made_from = digest({stage: parameters[stage] for stage in stages})[:12]
    os.environ["PRISMREC_WORKSPACES"] = str((work / f"workspaces-{made_from}").resolve())
    catalog, *_ = open_environment(ENVIRONMENTS[environment])
    if not catalog.get("sequence_building_metrics").exists():
        with KedroSession.create(PROJECT, env=ENVIRONMENTS[environment]) as session:
            session.run(pipeline_names=list(stages))
    found: dict[str, Any] = parameters
    return found


def load(environment: str, parameters: dict[str, Any]) -> Data:
    """What stages 1 and 2 made."""
    catalog, *_ = open_environment(ENVIRONMENTS[environment])
    return Data(
        catalog.load("histories"),
        catalog.load("splits"),
        catalog.load("item_map"),
        catalog.load("sequence_building_metrics")["split_hash"],
        parameters["evaluation"]["history"],
        parameters["evaluation"]["sampled_users"],
    )


def make(path: Path, parts: Path, identity: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Make one cell, in a process of its own; what went wrong is written into it."""
    try:
        data = load(identity["environment"], parameters)
        settings, code = identity["settings"], identity["code"]
        if CELLS[identity["cell"]].model == GEMIREC:
            figures = measure_gemirec(GemiRecParts(parts, data, settings, code_version(), code))
        else:
            figures = measure_cell(Parts(parts, data, settings, code))
    except Exception as error:
        write_cell(path, {**identity, "failed": f"{type(error).__name__}: {error}"})
        raise
    write_cell(path, {**identity, **figures})


def run_cell(path: Path, work: Path, identity: dict[str, Any], parameters: dict[str, Any], seconds: float) -> str:
    """Run a cell within the budget; return what became of it."""
    arguments = (path, work / "parts", identity, parameters)
    process = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    started = time.monotonic()
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        write_cell(path, {**identity, "failed": f"did not end within {seconds:g} s"})
        return "did not end"
    if process.exitcode and not stands(path, identity):  # killed, before it could say why
        write_cell(path, {**identity, "failed": f"ended with {process.exitcode}, without a word"})
    return f"{'failed' if process.exitcode else 'done'} after {time.monotonic() - started:.0f} s"


def stands(path: Path, identity: dict[str, Any]) -> bool:
    """Whether a cell is there and was made from the same; a failed one stands too."""
    cell = read_cell(path)
    return cell is not None and all(cell.get(key) == identity[key] for key in IDENTITY)


def main(arguments: list[str] | None = None) -> None:
    """Run the cells that are not there yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=ENVIRONMENTS, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for what cells share, outside the repository")
    parser.add_argument("--cells", nargs="*", choices=CELLS, default=list(CELLS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED])
    parser.add_argument("--budget-seconds", type=float, default=600, help="wall clock that a cell may take")
    parser.add_argument("--retry", action="store_true", help="run cells again that failed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where cells and tables are written")
    options = parser.parse_args(arguments)
    if options.cells:
        parameters = prepare(options.env, options.work)
        split_hash = load(options.env, parameters).split_hash
        todo = [(CELLS[name], seed) for seed in options.seeds for name in options.cells]
        for number, (cell, seed) in enumerate(todo, 1):
            print(f"[{number}/{len(todo)}] {time.strftime('%H:%M:%S')} {cell.name} {seed}: ", end="", flush=True)
            identity = {
                "environment": options.env,
                "cell": cell.name,
                "seed": seed,
                "split_hash": split_hash,
                "settings": settings_of(cell, options.env, parameters, seed),
                "code": code_version(*MORE_CODE[cell.model]),
            }
            path = options.results / options.env / f"{cell.name}-{seed}.json"
            if reason := why_not(cell, options.env, parameters, seed):
                print(f"skipped: {reason}", flush=True)
            elif stands(path, identity) and not (options.retry and "failed" in (read_cell(path) or {})):
                print("is there", flush=True)
            else:
                print(run_cell(path, options.work, identity, parameters, options.budget_seconds), flush=True)
    print(write_tables(options.results))
