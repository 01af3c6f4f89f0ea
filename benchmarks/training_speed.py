r"""How fast we train: supervised positions a second beside RecTools' SASRec, and time to equal validation NDCG@10.

    python -m benchmarks.peers.prepare --env ml1m --out /tmp/exchange
    python -m benchmarks.training_speed --data /tmp/exchange/ml1m --rounds 3 --budget 900 \
        --output benchmarks/results/training_speed.json

Sizes are those of our own SASRec in the environment ml1m (width, blocks, heads, length, dropout, users a step), for
everybody; the loss is a softmax over the whole catalogue at every position; the feed-forward layer is four times as
wide as the model. RecTools' SASRec gets such blocks from RecTools itself (its pre-norm Transformer layers); as
released, with a feed-forward layer as wide as the model, it is a row of its own, and has less to compute than ours.
Both in fp32 and in bf16 autocast. Without --data, synthetic histories of ML-1M's lengths.

*Speed*: rounds interleave all ways, each in a process of its own on the same cores; the best round of each counts.
Nobody's first steps are counted. *Curves*: training seconds (validation not counted; ours count the starting vectors
too) against validation NDCG@10 of all users; our epochs are as many as fit the budget at the speed seen.
*Matching*: the share of k-means and assignment (DMIL) in a step of the LLM recommender of the environment ml1m.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import steps
from benchmarks.peers.exchange import Exchange, read_exchange, write_exchange
from benchmarks.peers.measure import machine
from prismrec.artifacts.model_folder import dump_json
from prismrec.artifacts.stage_record import take_costs
from prismrec.models.precision import multiplies_bfloat16
from prismrec.models.sasrec import SASRec, SASRecConfig
from prismrec.models.transitions import spectral_vectors, transition_counts
from prismrec.parameters.evaluation import BaselineParameters
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.training import matching
from prismrec.training.baselines import SASRecTask
from prismrec.training.loop import fit

ENVIRONMENT = "ml1m"
PEER_PYTHON = Path(".venv-peers/bin/python")
WARM_UP = 3  # steps that are not counted
PEER_RATE = 0.001  # the library's own
OURS, PEER = "prismrec SASRec, bf16", "RecTools SASRec, our blocks, fp32"
WAYS: dict[str, dict[str, Any]] = {
    OURS: {"bf16": True},
    "prismrec SASRec, fp32": {"bf16": False},
    PEER: {"blocks": "pre_norm", "precision": "32-true"},
    "RecTools SASRec, our blocks, bf16": {"blocks": "pre_norm", "precision": "bf16-mixed"},
    "RecTools SASRec, as released, fp32": {"blocks": "released", "precision": "32-true"},
    "prismrec LLM recommender, bf16": {"recommender": True},
}
CURVES = (OURS, PEER, "RecTools SASRec, our blocks, bf16")


class SASRecSteps(SASRecTask):
    """Our SASRec's training, measured: the seconds of training before each validation; so many steps an epoch."""

    most_steps = steps.EVERY
    ranks = True

    def begin(self, started: float) -> None:
        """Count from a time, `time.perf_counter()`."""
        self.seconds, self.started, self.points = 0.0, started, []

    def epoch(self, rng: np.random.Generator) -> Any:
        """The first batches of an epoch; batches are in random order."""
        return super().epoch(rng)[: self.most_steps]

    def validate(self) -> dict[str, float]:
        """Stop the clock meanwhile."""
        self.seconds += time.perf_counter() - self.started
        found = super().validate() if self.ranks else {"ndcg@10": 0.0}
        if self.ranks:
            print(f"prismrec: {self.seconds:.0f} s, validation NDCG@10 {found['ndcg@10']:.4f}", flush=True)
        self.points.append({"seconds": round(self.seconds, 2), "ndcg@10": found["ndcg@10"]})
        self.started = time.perf_counter()
        return found


def baseline_parameters(changes: dict[str, Any]) -> BaselineParameters:
    """Our SASRec's of the environment, with a loss at every position."""
    settings = steps.load_parameters(ENVIRONMENT)["evaluation"]["baselines"]
    training = {**settings["training"], "validation_users": steps.EVERY, "positions_per_step": steps.EVERY, **changes}
    training |= {"checkpoint_seconds": 0, "device": "cpu", "patience": steps.EVERY}
    return BaselineParameters.model_validate({**settings, "training": training})


def run_sasrec(exchange: Exchange, asked: dict[str, Any]) -> dict[str, Any]:
    """Ours: a few steps, or a whole training with its curve."""
    import accelerate  # noqa: F401 - imports are not timed

    parameters = baseline_parameters({"bf16": asked["bf16"], "epochs": asked["epochs"] or 1})
    started = time.perf_counter()
    torch.manual_seed(asked["seed"])
    sizes = SASRecConfig(
        exchange.num_items, parameters.dim, parameters.layers, parameters.heads, parameters.length, parameters.dropout
    )
    model = SASRec(sizes)
    counts = transition_counts(exchange.items, exchange.offsets, exchange.train_end_U, exchange.num_items)
    model.start_from(spectral_vectors(counts, parameters.dim, asked["seed"]))
    data = steps.training_data(exchange, parameters.training.validation_users, asked["seed"])
    task = SASRecSteps(model, data, np.ones(exchange.num_items), parameters, asked["seed"])
    task.begin(started)
    if asked["epochs"]:
        fit(task, parameters.training, asked["seed"])
        return {**take_costs()[task.name], "curve": task.points}
    task.ranks = False
    epoch = sum(task.size(batch).positions for batch in task.epoch(np.random.default_rng(0)))
    figures = steps.measured_steps(task, parameters.training, asked["seed"], WARM_UP, asked["steps"])
    return {**figures, "epoch_positions": epoch, "parameters": count(model)}


def run_recommender(exchange: Exchange, asked: dict[str, Any]) -> dict[str, Any]:
    """The LLM recommender of the environment: a few steps, and the share of the matching in them."""
    settings = steps.load_parameters(ENVIRONMENT)
    parameters = LLMRecommenderParameters.model_validate(settings["llm_recommender"])
    training = parameters.training.model_copy(update={"epochs": 1, "checkpoint_seconds": 0.0, "device": "cpu"})
    parameters = parameters.model_copy(update={"training": training})
    task = steps.recommender_task(parameters, settings["lightweight_encoder"], exchange)
    real = matching.assign_interests
    spent: list[float] = []

    def timed(*arguments: Any) -> torch.Tensor:
        started = time.perf_counter()
        result = real(*arguments)
        spent.append(time.perf_counter() - started)
        return result

    matching.assign_interests = timed
    try:
        figures = steps.measured_steps(task, training, asked["seed"], WARM_UP, asked["steps"])
    finally:
        matching.assign_interests = real
    share = round(sum(spent[-asked["steps"] - 1 : -1]) / figures["seconds"], 4)  # the last call counts FLOPs
    return {**figures, "matching_share": share, "parameters": count(task.module)}


def count(model: torch.nn.Module) -> int:
    """Numbers in a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def asked_of(way: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What a way is asked for: everything that either side reads."""
    settings = baseline_parameters({})
    sizes = {name: getattr(settings, name) for name in ("layers", "heads", "dim", "length", "dropout")}
    general = {"batch_size": settings.training.batch_size, "learning_rate": PEER_RATE, "warm_up": WARM_UP}
    return {**sizes, **general, "seconds": 1e9, "epochs": 0, "validate": False, **WAYS[way], **changes}


def run(way: str, data: Path, changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One way in a process of its own; its figures."""
    asked, out = asked_of(way, changes), folder / "out.json"
    theirs = "blocks" in asked
    python = str(PEER_PYTHON) if theirs else sys.executable
    module = "benchmarks.peers.rectools_speed" if theirs else "benchmarks.training_speed"
    command = [python, "-m", module, "--data", str(data), "--asked", json.dumps(asked), "--out", str(out)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {"OMP_NUM_THREADS": str(cores), **os.environ}
    subprocess.run(command, check=True, env=environment)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def speeds(data: Path, ways: Sequence[str], options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """The best round of every way, rounds interleaved, with the speeds of all rounds."""
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in ways:
            figures = run(way, data, {"steps": options.steps, "seed": options.seed}, folder)
            rounds[way].append(figures)
            print(f"round {number + 1}: {way}: {figures['positions_per_second']:,.0f} positions/s", flush=True)
    report: dict[str, dict[str, Any]] = {}
    for way, found in rounds.items():
        best = max(found, key=lambda figures: figures["positions_per_second"])
        report[way] = {**best, "rounds": [figures["positions_per_second"] for figures in found]}
    return report


def curves(
    data: Path, ways: Sequence[str], options: argparse.Namespace, folder: Path, speed: dict[str, dict[str, Any]]
) -> dict[str, list[dict[str, float]]]:
    """Validation NDCG@10 against seconds of training, up to the budget."""
    found = {}
    for way in [way for way in CURVES if way in ways]:
        changes = {"steps": 0, "seed": options.seed, "seconds": options.budget, "validate": True, "warm_up": 0}
        if "blocks" not in WAYS[way]:
            epoch_seconds = speed[way]["epoch_positions"] / speed[way]["positions_per_second"]
            changes["epochs"] = max(1, int(options.budget / epoch_seconds))
        found[way] = run(way, data, changes, folder)["curve"]
    return found


def time_to(curve: Sequence[dict[str, float]], value: float) -> float | None:
    """Seconds until a curve first reaches a value; None where it never does."""
    return next((point["seconds"] for point in curve if point["ndcg@10"] >= value), None)


def to_equal(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Seconds that we and each peer take to the best value that the peer reaches."""
    report = {}
    for way, curve in found.items():
        if way != OURS and curve and found.get(OURS):
            best = max(point["ndcg@10"] for point in curve)
            report[way] = {"ndcg@10": best, "seconds": time_to(curve, best), "ours": time_to(found[OURS], best)}
    return report


def as_table(report: dict[str, Any]) -> str:
    """One line a way, then the times to equal NDCG@10."""
    base = report["speeds"].get(PEER, {}).get("positions_per_second")
    lines = [f"{'way':<36} {'positions/s':>11} {'x RecTools':>10} {'padding':>8} {'MFU':>6} {'matching':>8}"]
    for way, figures in report["speeds"].items():
        ratio = f"{figures['positions_per_second'] / base:.2f}" if base else ""
        shares = [figures.get(name) for name in ("model_flop_utilisation", "matching_share")]
        mfu, match = ("" if share is None else f"{share:.1%}" for share in shares)
        speed, padding = f"{figures['positions_per_second']:,.0f}", f"{figures['padding_waste']:.1%}"
        lines.append(f"{way:<36} {speed:>11} {ratio:>10} {padding:>8} {mfu:>6} {match:>8}")
    for way, equal in report["to_equal"].items():
        ours = "never" if equal["ours"] is None else f"{equal['ours']:.0f} s"
        lines.append(f"validation NDCG@10 {equal['ndcg@10']:.4f}: {way} {equal['seconds']:.0f} s, ours {ours}")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command; --asked and --out are those of its own sub-processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="exchange folder; synthetic data by default")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="what to compare")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--steps", type=int, default=60, help="steps of a round")
    parser.add_argument("--budget", type=float, default=900.0, help="seconds of training of a curve; 0: no curves")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON to write")
    for name in ("--asked", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Compare, or run one way."""
    options = parse(arguments)
    if options.asked:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        asked, exchange = json.loads(options.asked), read_exchange(options.data)
        figures = (run_recommender if asked.get("recommender") else run_sasrec)(exchange, asked)
        Path(options.out).write_text(json.dumps(figures), encoding="utf-8")
        return
    if not multiplies_bfloat16("cpu"):
        print("Rows called bf16 are computed in fp32 here; RecTools in bf16 is left out.")
        options.ways = [way for way in options.ways if WAYS[way].get("precision") != "bf16-mixed"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        exchange, data = steps.exchanged(options.data), folder / "data"
        write_exchange(data, exchange)
        speed = speeds(data, options.ways, options, folder)
        found = curves(data, options.ways, options, folder, speed) if options.budget else {}
    settings = asked_of(OURS, {})
    report = {
        "data": exchange.about,
        "sizes": {name: settings[name] for name in ("layers", "heads", "dim", "length", "dropout", "batch_size")},
        "rounds": options.rounds,
        "steps": options.steps,
        "budget_seconds": options.budget,
        "speeds": speed,
        "curves": found,
        "to_equal": to_equal(found),
        "machine": {**machine(), "bf16": multiplies_bfloat16("cpu")},
    }
    print(as_table(report))
    if options.output:
        options.output.write_text(dump_json(report), encoding="utf-8")


if __name__ == "__main__":
    main()
