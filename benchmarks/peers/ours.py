"""Our own rows as cells: the same lists, costs and files as a peer's.

    kedro run --env ml1m
    python -m benchmarks.peers.ours --env ml1m --exchange /tmp/exchange --out /tmp/cells

Takes the models of the environment's workspace, as `evaluation` ranks with them. What training cost is read from the
`run.json` of the stages that made a row: the wall clock of all of them together, and the largest peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.cells import cell_path, write_cell
from benchmarks.peers.exchange import LIST_LENGTH, Exchange, read_exchange
from benchmarks.peers.measure import machine, measured
from benchmarks.peers.prepare import PROJECT, open_environment
from benchmarks.peers.registry import TRAIN_ONLY
from prismrec import __version__
from prismrec.artifacts.stage_record import runs_of, stage_cost
from prismrec.data.histories import SplitPoints
from prismrec.evaluation.comparison import Row
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.protocols import Cases
from prismrec.parameters.evaluation import EvaluationParameters
from prismrec.pipelines.evaluation import nodes
from prismrec.pipelines.inputs import event_table

ENCODER = ("lightweight_encoder",)
HYMIREC = (*ENCODER, "codebook", "llm_recommender")
UNTUNED = "hymirec_untuned"  # the row of `benchmarks.peers.untuned`
GEMIREC = (*HYMIREC, "interest_dictionary")
STAGES: dict[str, tuple[str, ...]] = {
    "lightweight_encoder": ENCODER,
    "llm_recommender": HYMIREC,
    "hymirec": HYMIREC,
    "hymirec_without_transitions": HYMIREC,
    UNTUNED: HYMIREC,
    "gemirec": GEMIREC,
    "prismrec": GEMIREC,
    "plain_ensemble": GEMIREC,
}
# What our rankers are made of; the arguments of `our_rankers` are called the same.
MODELS = (
    "item_vectors", "codebook", "item_codes", "lightweight_encoder", "recommender", "counted", "merge",
    "dictionary", "item_cells", "posterior", "retrieval", "unified_merge", "interests_merge",
)  # fmt: skip
TRAINED_BASELINES = ("sasrec", "comirec", "sasrec_merge", "comirec_merge")
# Rows that single nodes train, or fit.
_SASREC, _COMIREC = ("evaluation", "train_sasrec"), ("evaluation", "train_comirec")
_COUNTED = ("llm_recommender", "fit_merge")
NODES = {
    "sasrec": (_SASREC,),
    "sasrec_transitions": (_SASREC, _COUNTED, ("evaluation", "merge_sasrec")),
    "comirec": (_COMIREC,),
    "comirec_transitions": (_COMIREC, _COUNTED, ("evaluation", "merge_comirec")),
    "linear_transitions": (_COUNTED,),
}
# How many settings were tried on validation for a row, those of all that it rests on among them; a setting of the
# linear transitions, tried in a minute, counts like any other. Each is booked with the seconds of one core that the
# kept setting trained. Data sets that are not named take the settings as they stand: one trial. Keep these counts true
# when you tune.
TUNED: dict[str, dict[str, int]] = {
    "ml1m": {
        "sasrec": 3,
        "sasrec_transitions": 18,
        "comirec": 3,
        "comirec_transitions": 18,
        "lightweight_encoder": 4,
        "llm_recommender": 8,
        "linear_transitions": 15,
        "hymirec": 23,
        "hymirec_without_transitions": 8,
        "gemirec": 10,
        "prismrec": 25,
        "plain_ensemble": 25,
    },
    "beauty": {
        "sasrec": 17,
        "sasrec_transitions": 27,
        "comirec": 2,
        "comirec_transitions": 12,
        "lightweight_encoder": 9,
        "llm_recommender": 9,
        "linear_transitions": 10,
        "hymirec": 23,
        "hymirec_without_transitions": 13,
        "gemirec": 11,
        "prismrec": 25,
        "plain_ensemble": 25,
    },
    "steam": {
        "sasrec": 4,
        "sasrec_transitions": 31,
        "comirec": 1,
        "comirec_transitions": 28,
        "lightweight_encoder": 2,
        "llm_recommender": 4,
        "linear_transitions": 27,
        "hymirec": 43,
        "hymirec_without_transitions": 16,
        "gemirec": 4,
        "prismrec": 43,
        "plain_ensemble": 43,
    },
}
LEARNED = ("lightweight_encoder", "llm_recommender", "gemirec", "sasrec", "comirec", UNTUNED)
POOLED = (
    "hymirec", "hymirec_without_transitions", "prismrec", "plain_ensemble", "sasrec_transitions", "comirec_transitions",
)  # fmt: skip
COUNTS_ALL = "networks: training events; transitions and recency beside them: everything before the target"
COUNTED_ROW = "everything before the target"


def trains_on(row: str) -> str:
    """Which events a row of ours learns from."""
    name = row.removesuffix("_time_free")
    return TRAIN_ONLY if name in LEARNED else COUNTS_ALL if name in POOLED else COUNTED_ROW


def row_lists(row: Row, exchange: Exchange, num_items: int) -> np.ndarray:
    """[U, 100] lists of one row, in the exchange's item numbers."""
    recommendable_N = torch.zeros(num_items, dtype=torch.bool)
    recommendable_N[torch.from_numpy(exchange.item_index_N.astype(np.int64))] = True
    place_N = np.full(num_items + 1, -1, np.int32)  # the last one is for -1, where a list has ended
    place_N[exchange.item_index_N] = np.arange(exchange.num_items, dtype=np.int32)
    users_C = np.argsort(exchange.test_U, kind="stable")  # histories of one length together
    targets_C1 = exchange.item_index_N[exchange.targets(exchange.test_U)[users_C]].astype(np.int64)[:, None]
    found = np.ones_like(targets_C1, dtype=bool)
    cases = Cases(users_C, exchange.test_U[users_C].astype(np.int64), targets_C1, found, 0, 0, 0)
    ranked = evaluate({row.label: row.ranker}, row.events, cases, recommendable_N, "filtered")[row.label]
    lists_UK = np.empty((exchange.num_users, LIST_LENGTH), np.int32)
    lists_UK[users_C] = place_N[ranked.lists_CK]
    return lists_UK


def training_cost(workspace: Path, row: str) -> dict[str, float | None]:
    """Seconds and peak memory of what trained a row, from the latest record of each stage; None where unknown."""
    name = row.removesuffix("_time_free")
    if name in STAGES:
        records = [runs_of(workspace, stage) for stage in STAGES[name]]
        if all(records):
            costs = [stage_cost(of_stage) for of_stage in records]
            seconds = round(sum(cost.seconds for cost in costs), 2)
            return {"seconds": seconds, "cpu_seconds": None, "peak_mb": max(cost.peak_mb for cost in costs)}
    if name in NODES:
        costs = [_latest_of(runs_of(workspace, stage), node) for stage, node in NODES[name]]
        known = [cost for cost in costs if cost is not None]
        if len(known) == len(costs):
            seconds = round(sum(seconds for seconds, _ in known), 2)
            return {"seconds": seconds, "cpu_seconds": None, "peak_mb": max(peak for _, peak in known)}
    return {"seconds": None, "cpu_seconds": None, "peak_mb": None}


def _latest_of(runs: list[dict[str, Any]], node: str) -> tuple[float, float] | None:
    """Seconds of a node when it last ran, and that run's peak; None in older records, which have none."""
    for run in reversed(runs):  # a stage's nodes may have run one by one
        seconds = run.get("node_seconds", {}).get(node)
        if seconds is not None:
            return seconds, run["peak_rss_mb"]
    return None


def trials_of(data_set: str, row: str) -> int:
    """How many settings were tried for a row; one where it was not tuned."""
    return TUNED.get(data_set, {}).get(row.removesuffix("_time_free"), 1)


def write_rows(
    rows: Mapping[str, Row],
    exchange: Exchange,
    num_items: int,
    out: Path,
    workspace: Path,
    seed: int,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Rank with every row, and write its cell, with further facts if there are any."""
    for name, row in rows.items():
        lists_UK, cost = measured(lambda row=row: row_lists(row, exchange, num_items))
        training = training_cost(workspace, name)
        cell = {
            "data_set": exchange.about["name"],
            "title": exchange.about["title"],
            "split_hash": exchange.about["split_hash"],
            "users": exchange.num_users,
            "items": exchange.num_items,
            "peer": f"prismrec_{name}",
            "label": f"**prismrec {row.label}**" if row.family == "prismrec" else f"prismrec's {row.label}",
            "family": row.family,
            "time": row.time,
            "trains_on": trains_on(name),
            "seed": seed,
            "trials": trials_of(exchange.about["name"], name),
            "budget_seconds": training["seconds"],
            "epochs": None,
            "package": {"prismrec": __version__},
            "machine": {**machine(), "torch": torch.__version__, "numpy": np.__version__},
            "training": training,
            "recommending": {**cost.as_dict(), "users_per_second": round(exchange.num_users / cost.seconds, 1)},
            **(facts or {}),
        }
        write_cell(cell_path(out, cell["data_set"], cell["peer"], seed), cell, lists_UK)
        print(f"{cell['peer']}: {cell['recommending']['users_per_second']} users/s", flush=True)


def load_rows(catalog: Any, parameters: EvaluationParameters) -> dict[str, Row]:
    """The rows that `evaluation` measures, the counted ones fitted on everything before the test target."""
    tables = {name: catalog.load(name) for name in ("histories", "splits")}
    models = {name: catalog.load(name) for name in MODELS}
    ours = nodes.our_rankers(**models)
    recommendable_N = torch.from_numpy(models["item_vectors"]["recommendable"])
    events = event_table(tables["histories"])
    starts_U = SplitPoints.from_frame(tables["splits"]).test_start_U
    heuristics, left_out = nodes.heuristic_rows(
        tables["histories"], starts_U, recommendable_N, events, parameters.recent_days
    )
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")
    sasrec, comirec, *merges = (catalog.load(name) for name in TRAINED_BASELINES)
    baselines = nodes.baseline_rankers(sasrec, comirec, models["counted"], *merges)
    return {**heuristics, **nodes.trained_rows(ours, baselines, events)}


def write_environment(environment: str, exchanges: Path, out: Path) -> str:
    """Write the cells of all our rows of an environment; return what became of it.

    Raises:
        SystemExit: if the exchange folder was made from another split.
    """
    catalog, settings, parameters = open_environment(environment)
    missing = [name for name in (*MODELS, *TRAINED_BASELINES) if not catalog.get(name).exists()]
    if missing:
        return f"skipped: {', '.join(missing)} not made yet; kedro run --env {environment}"
    exchange = read_exchange(exchanges / settings["workspace"])
    if exchange.about["split_hash"] != catalog.load("sequence_building_metrics")["split_hash"]:
        raise SystemExit(f"{exchanges} holds another split: run benchmarks.peers.prepare again")
    evaluation = EvaluationParameters.model_validate(parameters["evaluation"])
    rows, num_items = load_rows(catalog, evaluation), len(catalog.load("item_map"))
    workspace = PROJECT / settings["workspaces"] / settings["workspace"]
    write_rows(rows, exchange, num_items, out, workspace, evaluation.seed)
    return "done"


def main() -> None:
    """Write one environment's rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, help="Kedro environment, such as ml1m or beauty")
    parser.add_argument("--exchange", type=Path, required=True, help="folder of the exchange folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    arguments = parser.parse_args()
    print(write_environment(arguments.env, arguments.exchange, arguments.out))


if __name__ == "__main__":
    main()
