r"""ML-1M with a backbone of Qwen3-0.6B's shape on a GPU: model FLOP utilisation, then the training itself.

    make gpu-ml1m
    python -m benchmarks.gpu_ml1m --output benchmarks/results/gpu_ml1m.json --cells steps

Cells, each written to the output as soon as it is done and not run again as long as it stands there:
    steps, …      steps of training in bf16, the backbone compiled, without and with gradient checkpointing: positions a
                  second, padding, model FLOP utilisation (what checkpointing computes anew left out), peak memory,
                  for every batch size until one does not fit; synthetic histories of ML-1M's lengths, no data needed
    training      `kedro run --env gpu` up to the recommender; validation NDCG@10, its speed. Stages that are done are
                  not run again, and a training that was interrupted goes on where it was
--set changes parameters of the recommender for the steps, such as hidden=64 layers=2 on a CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import steps
from benchmarks.peers.measure import machine
from prismrec.artifacts.model_folder import dump_json
from prismrec.artifacts.stage_record import RECORDS
from prismrec.parameters.llm_recommender import LLMRecommenderParameters

ENVIRONMENT = "gpu"
STAGES = ("data_validation", "sequence_building", "lightweight_encoder", "codebook", "llm_recommender")
PROJECT = Path(__file__).parents[1]
AIM = 0.4
WARM_UP = 5  # steps that are not counted: compiling, for two shapes


def step_cell(parameters: LLMRecommenderParameters, encoder: Mapping[str, Any], options: Any) -> dict[str, Any]:
    """Figures of every batch size that fits, and the best utilisation."""
    exchange, sizes = steps.like_ml1m(max(steps.USERS, 12 * max(options.batches))), {}
    for users in options.batches:
        positions = users * parameters.recent_length
        changes = {"batch_size": users, "positions_per_step": positions, "checkpoint_seconds": 0.0, "epochs": 1}
        training = parameters.training.model_copy(update=changes)
        task = steps.recommender_task(parameters.model_copy(update={"training": training}), encoder, exchange)
        trained = sum(p.numel() for p in task.module.parameters())
        checkpointing, compiled = parameters.gradient_checkpointing, parameters.compile
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            with steps.backbone.economies(task.recommender.backbone, checkpointing, compiled):
                figures = steps.measured_steps(task, training, parameters.seed, WARM_UP, options.steps)
        except torch.OutOfMemoryError:
            print(f"{users} users a step do not fit.")
            break
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        sizes[str(users)] = {**figures, "peak_device_bytes": peak, "parameters": trained}
        print(f"{users:>5} users a step: MFU {figures['model_flop_utilisation']:.1%}", flush=True)
        del task
        torch.cuda.empty_cache()
    best = max((found["model_flop_utilisation"] for found in sizes.values()), default=0.0)
    return {"batch_size": sizes, "model_flop_utilisation": best, "aim": AIM}


def training_cell(workspace: Path) -> dict[str, Any]:
    """Run what is not done up to the recommender; its record.

    Args:
        workspace: folder of the environment's workspace.
    """
    missing = [stage for stage in STAGES if not list((workspace / RECORDS / stage).glob("*/run.json"))]
    if missing:
        command = [sys.executable, "-m", "kedro", "run", "--env", ENVIRONMENT, "--pipelines", ",".join(missing)]
        subprocess.run(command, check=True, cwd=PROJECT)
    record = sorted((workspace / RECORDS / "llm_recommender").glob("*/run.json"))[-1]
    run = json.loads(record.read_text(encoding="utf-8"))
    manifest = json.loads(record.with_name("manifest.json").read_text(encoding="utf-8"))
    return {"trainings": run["trainings"], "seconds": run["seconds"], "metrics": manifest["metrics"]}


def override(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Parameters with some of them set anew, from words such as hidden=64.

    Raises:
        SystemExit: a word is no such change.
    """
    for change in changes:
        name, _, value = change.partition("=")
        if name not in values or not value:
            raise SystemExit(f"--set {change}: give parameter=value, of: {', '.join(values)}")
        values = {**values, name: json.loads(value)}
    return values


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="users a step")
    parser.add_argument("--steps", type=int, default=20, help="steps counted for each batch size")
    parser.add_argument("--cells", nargs="+", choices=["steps", "training"], default=["steps", "training"])
    parser.add_argument(
        "--set", nargs="*", default=[], dest="changes", help="parameters of the recommender, name=value"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON; what it holds is not run again")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the cells that the output does not hold."""
    from benchmarks.peers.prepare import open_environment

    options = parse(arguments)
    _, settings, stages = open_environment(ENVIRONMENT)
    values = override(stages["llm_recommender"], options.changes)
    report = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    cells: list[str] = []
    if "steps" in options.cells:
        cells += ["steps, checkpointing off", "steps, checkpointing on"]
    cells += ["training"] * ("training" in options.cells)
    for cell in [cell for cell in cells if cell not in report]:
        if cell == "training":
            found = training_cell(PROJECT / settings["workspaces"] / settings["workspace"])
        else:
            checkpointing = {"gradient_checkpointing": cell.endswith("on")}
            parameters = LLMRecommenderParameters.model_validate({**values, **checkpointing})
            sizes = parameters.model_dump(exclude={"training", "transitions"})
            found = {**step_cell(parameters, stages["lightweight_encoder"], options), "sizes": sizes}
        report[cell] = {**found, "device": device, "torch": torch.__version__, "machine": machine()}
        options.output.write_text(dump_json(report), encoding="utf-8")
    for cell in cells:
        found = report[cell]
        if cell != "training":
            print(f"{cell}: {found['model_flop_utilisation']:.1%} of the matmul peak at best (aim {AIM:.0%})")
        else:
            print(f"{cell}: {dump_json(found['trainings'])}")


if __name__ == "__main__":
    main()
