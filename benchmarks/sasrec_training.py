r"""How good our SASRec gets, and how fast: its whole training in an environment, with the learning curve.

    kedro run --env ml1m --pipelines data_validation,sequence_building
    python -m benchmarks.sasrec_training --env ml1m --output benchmarks/results/sasrec_training/ml1m.json
    python -m benchmarks.sasrec_training --env beauty --set negatives=1024 \
        --output benchmarks/results/sasrec_training/beauty_sampled.json

The training is the one of `evaluation` (settings of `evaluation.baselines`, training events only, the best epoch on
validation kept); only the clock is added. Seconds are wall clock and count everything from the histories to the chosen
weights: the starting vectors, and the ranking of validation users after each epoch. The test is ranked once, at the
end. Threads: as OMP_NUM_THREADS says, all cores unless it does.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.measure import machine, measured
from benchmarks.peers.prepare import open_environment
from prismrec.artifacts.model_folder import dump_json
from prismrec.data.histories import SplitPoints
from prismrec.evaluation.comparison import Row, accuracy, intervals
from prismrec.models.baselines import SASRecRanker
from prismrec.models.sasrec import SASRec, SASRecConfig
from prismrec.parameters.evaluation import EvaluationParameters
from prismrec.pipelines.evaluation import nodes
from prismrec.pipelines.inputs import active_items, event_table
from prismrec.training.baselines import SASRecTask

METRICS = ("hr@10", "ndcg@10", "hr@50")


class Timed(SASRecTask):
    """Our SASRec's training, with the seconds since `started` after each validation."""

    started: float
    points: list[dict[str, float]]

    def validate(self) -> dict[str, float]:
        """As ever; the point is kept."""
        found = super().validate()
        self.points.append({"seconds": round(time.perf_counter() - self.started, 1), **found})
        shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        print(f"epoch {len(self.points)}: {self.points[-1]['seconds']:.0f} s, validation {shown}", flush=True)
        return found


def run(catalog: Any, parameters: EvaluationParameters) -> dict[str, Any]:
    """Train on what `sequence_building` wrote, then rank the test.

    Args:
        catalog: Kedro's, of the environment.
        parameters: of `evaluation`.
    """
    item_map, histories, splits = (catalog.load(name) for name in ("item_map", "histories", "splits"))
    settings = parameters.baselines
    sizes = SASRecConfig(
        len(item_map), settings.dim, settings.layers, settings.heads, settings.length, settings.dropout
    )
    Timed.started, Timed.points = time.perf_counter(), []
    (model, _), cost = measured(
        lambda: nodes._train_baseline(SASRec, sizes, Timed, item_map, histories, splits, parameters, None, None)
    )
    points, table = SplitPoints.from_frame(splits), event_table(histories)
    cases = nodes.some_cases(table, points.test_start_U, points.test_end_U, parameters.history)
    rows = {"sasrec": Row(SASRecRanker(model), table, "SASRec", "baseline", "free")}
    ranked = accuracy(rows, cases, torch.from_numpy(active_items(item_map)), parameters.history)
    means, ends = ranked["sasrec"].means(), intervals(ranked, parameters.bootstrap_draws, parameters.seed)["sasrec"]
    return {
        "split_hash": catalog.load("sequence_building_metrics")["split_hash"],
        "seed": parameters.seed,
        "settings": settings.model_dump(mode="json"),
        "machine": {**machine(), "torch": torch.__version__},
        "training": cost.as_dict(),
        "seconds_to_best_epoch": max(Timed.points, key=lambda point: point["ndcg@10"])["seconds"],
        "curve": Timed.points,
        "test": {name: {"mean": means[name], "interval": ends[name]} for name in METRICS},
    }


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, help="Kedro environment, such as ml1m")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings below evaluation.baselines"
    )
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    catalog, _, parameters = open_environment(arguments.env)
    settings = parameters["evaluation"]
    for change in arguments.set:
        key, value = change.split("=", 1)
        *above, last = key.split(".")
        inner = settings["baselines"]
        for name in above:
            inner = inner[name]
        inner[last] = json.loads(value)
    found = run(catalog, EvaluationParameters.model_validate(settings))
    test = ", ".join(f"{name} {value['mean']:.4f}" for name, value in found["test"].items())
    print(f"{found['training']['seconds']:.0f} s on {found['machine']['threads']} thread(s); test {test}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(dump_json({"environment": arguments.env, **found}), encoding="utf-8")


if __name__ == "__main__":
    main()
