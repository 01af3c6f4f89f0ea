"""Score every output, ours and theirs, with one metric function, and write the tables.

    python -m benchmarks.peers.score --exchange /tmp/exchange --cells /tmp/cells

Reads the lists of all cells, measures them with `prismrec.metrics.ranking` (HR, Recall, NDCG, MRR @10/20/50/100 with
95 % bootstrap intervals over users, coverage@10) and writes one JSON a cell, a summary and the Markdown tables. A
scored cell keeps the place of each user's target, a byte a user, from which all its figures but coverage follow: what
was committed earlier is compared with what was run today. Time-free and time-aware rows stand in separate tables, and
are never compared with one another.

Notable: everybody hands in lists of 100, so a target further down counts as not found, which no cut-off here sees.
The order within equal scores is the model's own, while the evaluation report takes the mean over all orders. Where many
items score the same, as in heuristics that give most items zero, figures here and there may differ; by how much is not
measured.
"""

from __future__ import annotations

import argparse
import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.cells import read_cell, read_lists, write_cell
from benchmarks.peers.exchange import Exchange, read_exchange
from benchmarks.peers.ours import COUNTED_ROW, COUNTS_ALL, UNTUNED, trains_on, trials_of
from benchmarks.peers.registry import ALL_BEFORE, TRAIN_ONLY
from benchmarks.peers.run import DEFAULT_SEED
from prismrec.artifacts.model_folder import dump_json
from prismrec.evaluation.intervals import bootstrap_means, paired_bootstrap
from prismrec.metrics.ranking import CUTOFFS, NEVER, TargetRanks, per_user_metrics

RESULTS = Path(__file__).parents[1] / "results"
SUMMARY_NAME = "summary.json"
PAIRED_METRIC = "ndcg@10"
OURS = "prismrec_"  # what the names of our rows begin with
# Whom the differences are taken from: HyMiRec as tuned, and as every data set starts (`benchmarks.peers.untuned`).
AGAINST = {
    "paired": {"free": "prismrec_hymirec_time_free", "aware": "prismrec_hymirec"},
    "paired_untuned": {"free": f"prismrec_{UNTUNED}_time_free", "aware": f"prismrec_{UNTUNED}"},
}
COVERAGE_AT = 10
HEADINGS = {
    "free": "Time-free: models that read only the order of events",
    "aware": "Time-aware: models that read the times of events, or of the request",
}
# Whether a row had more than the smallest tuning budget of a neural peer, and what stands over such rows.
BUDGETS = {
    False: "With a tuning budget no larger than a neural peer's, or without training",
    True: "Ours with a larger one: more settings tried, or longer trained",
}
NO_PEER = "No neural peer has been run on this data set yet"
LEARNED_FROM = {
    TRAIN_ONLY: "training",
    COUNTS_ALL: "training, counts: all",
    ALL_BEFORE: "all",
    COUNTED_ROW: "all",
}
COLUMNS = (
    "model", "learned from", "seed", "HR@10", "NDCG@10", "MRR@10", "HR@50", "NDCG@50", "coverage@10", "Δ NDCG@10",
    "Δ untuned", "training s", "epochs", "peak MB", "users/s",
)  # fmt: skip
OVER_SEEDS = ("model", "seeds", "HR@10", "NDCG@10", "HR@50", "Δ NDCG@10 of the means", "Δ of each seed")


def places(lists_UK: np.ndarray, targets_U: np.ndarray) -> np.ndarray:
    """Place of each user's target in the list, from 1; 0 where it is not listed: uint8 [U]."""
    assert lists_UK.shape[1] < 256, "places are bytes"
    found_UK = lists_UK == targets_U[:, None]
    return np.where(found_UK.any(1), found_UK.argmax(1) + 1, 0).astype(np.uint8)


def metrics_of(place_U: np.ndarray) -> dict[str, np.ndarray]:
    """HR, Recall, NDCG and MRR of every user."""
    higher_U = np.where(place_U > 0, place_U.astype(np.int64) - 1, NEVER)
    higher_U1 = torch.from_numpy(higher_U)[:, None]
    ranks = TargetRanks(higher_U1, torch.ones_like(higher_U1), torch.ones_like(higher_U1, dtype=torch.bool))
    return per_user_metrics(ranks, CUTOFFS)


def score(cell: dict[str, Any], lists_UK: np.ndarray, exchange: Exchange) -> dict[str, Any]:
    """The cell with its metrics and intervals, and the places they follow from."""
    place_U = places(lists_UK, exchange.targets(exchange.test_U))
    values = metrics_of(place_U)
    low_M, high_M = bootstrap_means(np.stack(list(values.values()), 1), seed=0)
    shown = np.unique(lists_UK[:, :COVERAGE_AT])
    metrics = {name: float(value_U.mean()) for name, value_U in values.items()}
    metrics[f"coverage@{COVERAGE_AT}"] = float((shown >= 0).sum() / exchange.num_items)
    ends = zip(low_M, high_M, strict=True)
    intervals = {name: [float(low), float(high)] for name, (low, high) in zip(values, ends, strict=True)}
    packed = base64.b64encode(zlib.compress(place_U.tobytes(), 9)).decode("ascii")
    return {**cell, "cases": exchange.num_users, "metrics": metrics, "intervals": intervals, "places": packed}


def read_places(cell: dict[str, Any]) -> np.ndarray:
    """The places that `score` packed: uint8 [U], in the split's order of users."""
    return np.frombuffer(zlib.decompress(base64.b64decode(cell["places"])), np.uint8)


def score_data_set(exchange: Exchange, cells: Path, results: Path) -> None:
    """Score one data set's cells, write them where they are committed, and compare all that stand there."""
    for path in sorted((cells / exchange.about["name"]).glob("*.json")):
        cell, lists_UK = read_cell(path), read_lists(path)
        assert cell is not None, "it was just found"
        if cell["split_hash"] != exchange.about["split_hash"]:
            raise SystemExit(f"{path} was made from another split than {exchange.about['name']}'s: run it again")
        if "failed" in cell:
            write_cell(results / cell["data_set"] / path.name, cell)
        elif lists_UK is not None:
            write_cell(results / cell["data_set"] / path.name, score(cell, lists_UK, exchange))
    pair(results / exchange.about["name"])


def reference_of(cell: dict[str, Any], kind: str = "paired") -> str:
    """Our row that a cell is compared with: that of its time and its seed."""
    return f"{AGAINST[kind][cell['time']]}-{cell['seed']}"


def pair(folder: Path) -> None:
    """Write into every scored cell of a data set its paired differences from ours of the same time and seed."""
    scored = {path: cell for path in sorted(folder.glob("*.json")) if "places" in (cell := read_cell(path) or {})}
    values = {path.name: metrics_of(read_places(cell))[PAIRED_METRIC] for path, cell in scored.items()}
    for path, cell in scored.items():
        for kind, names in AGAINST.items():
            reference = f"{reference_of(cell, kind)}.json"
            cell.pop(kind, None)
            if reference in values and reference != path.name:
                assert scored[folder / reference]["split_hash"] == cell["split_hash"], "cells of two splits"
                difference, low, high = paired_bootstrap(values[path.name], values[reference], seed=0)
                against = {"against": names[cell["time"]], "metric": PAIRED_METRIC}
                cell[kind] = {**against, "difference": difference, "low": low, "high": high}
        write_cell(path, cell)


def read_results(results: Path) -> dict[str, list[dict[str, Any]]]:
    """All committed cells by data set, best NDCG@10 first, failed ones last."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("*/*.json")):
        cell = read_cell(path)
        assert cell is not None, "it was just found"
        found.setdefault(cell["data_set"], []).append(cell)
    for cells in found.values():
        cells.sort(key=lambda cell: -cell["metrics"]["ndcg@10"] if "metrics" in cell else 1.0)
    return found


def as_markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """The tables of all data sets."""
    lines = ["# Peers on our split", "", *_notes()]
    for cells in found.values():
        facts = f"{cells[0]['users']} users and cases, {cells[0]['items']} items, split {cells[0]['split_hash'][:12]}"
        lines += [f"## {cells[0]['title']}", "", f"Leave-one-out, {facts}.", ""]
        for time, heading in HEADINGS.items():
            rows = [cell for cell in cells if cell["time"] == time and "metrics" in cell]
            lines += [f"### {heading}", ""] if rows else []
            for larger, budget in (BUDGETS if _neural_budgets(cells) else {False: NO_PEER}).items():
                lines += _table(budget, [cell for cell in _one_each(rows) if _had_more(cell, cells) == larger])
            lines += _over_seeds(rows)
        failed = [f"- {cell['label']}: {cell['failed']}" for cell in cells if "failed" in cell]
        if failed:
            lines += ["Did not run:", "", *failed, ""]
        lines += _unpaired(cells)
        lines += _budgets(cells)
    return "\n".join(lines)


def _table(heading: str, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = [f"#### {heading}", "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return [*head, *(f"| {' | '.join(_row(cell))} |" for cell in rows), ""]


def _one_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every row once: of several seeds the usual one, or the lowest where that is not there."""
    seeds: dict[str, list[int]] = {}
    for cell in rows:
        seeds.setdefault(cell["peer"], []).append(cell["seed"])
    shown = {peer: DEFAULT_SEED if DEFAULT_SEED in of else min(of) for peer, of in seeds.items()}
    return [cell for cell in rows if cell["seed"] == shown[cell["peer"]]]


def _over_seeds(rows: list[dict[str, Any]]) -> list[str]:
    """What was measured under several seeds: mean and range, and the difference of each user's mean over seeds."""
    by_peer: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in rows:
        by_peer.setdefault(cell["peer"], {})[cell["seed"]] = cell
    several = {peer: dict(sorted(of.items())) for peer, of in by_peer.items() if len(of) > 1}
    if not several:
        return []
    reference = several.get(AGAINST["paired"][rows[0]["time"]], {})
    lines = ["#### Over seeds", "", f"| {' | '.join(OVER_SEEDS)} |", "|---" * len(OVER_SEEDS) + "|"]
    means = {peer: float(np.mean([cell["metrics"]["ndcg@10"] for cell in of.values()])) for peer, of in several.items()}
    for peer in sorted(several, key=lambda peer: -means[peer]):
        of = several[peer]
        common = [seed for seed in of if seed in reference and reference is not of]
        spans = (_span([cell["metrics"][name] for cell in of.values()]) for name in ("hr@10", "ndcg@10", "hr@50"))
        each = ", ".join(
            f"{of[seed]['metrics']['ndcg@10'] - reference[seed]['metrics']['ndcg@10']:+.4f}" for seed in common
        )
        label, seeds = next(iter(of.values()))["label"], ", ".join(map(str, of))
        over = seed_difference(list(of.values()), list(reference.values())) if len(common) > 1 else None
        lines.append(f"| {' | '.join((label, seeds, *spans, _difference(over), each or '–'))} |")
    return [*lines, ""]


def seed_difference(cells: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, float]:
    """Paired difference in NDCG@10 of each user's mean over the seeds that both have: difference, low, high.

    Users are drawn, not seeds: of these there are too few, so how far single trainings lie apart is told beside it.
    """
    of, other = ({cell["seed"]: cell for cell in each} for each in (cells, reference))
    common = sorted(of.keys() & other.keys())
    here, there = (
        np.mean([metrics_of(read_places(each[seed]))[PAIRED_METRIC] for seed in common], axis=0) for each in (of, other)
    )
    difference, low, high = paired_bootstrap(here, there, seed=0)
    return {"difference": difference, "low": low, "high": high}


def _span(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def _had_more(cell: dict[str, Any], cells: list[dict[str, Any]]) -> bool:
    """Whether one of our rows had more than the smallest tuning budget of a neural peer, or tuned at unknown cost."""
    if not cell["peer"].startswith(OURS):
        return False
    trials, seconds = _tuning(cell)
    if seconds is None:
        return trials > 1
    return any(trials * seconds > times * each for times, each in _neural_budgets(cells))


def _neural_budgets(cells: list[dict[str, Any]]) -> list[tuple[int, float]]:
    scored = [cell for cell in cells if "metrics" in cell and cell["family"] == "neural"]
    return sorted({(cell["trials"], cell["budget_seconds"]) for cell in scored})


def _notes() -> list[str]:
    return [
        "Written by `python -m benchmarks.peers.score`; how to run it: [benchmarks](../README.md).",
        "Everybody gets the same histories and targets, ranks all items but those of the history, and is scored by "
        "one metric function. In brackets: 95 % bootstrap intervals over users.",
        "Δ NDCG@10: paired difference from prismrec HyMiRec, with the times of events among those that read them; a "
        "win is an interval without 0. Rows are paired with our row of the same seed; where there are several seeds, "
        "tables show one, and *Over seeds* mean and range of all, with the difference of each user's mean over them "
        "(users are drawn, not seeds). **Δ untuned** is the same from "
        "HyMiRec with the settings that every data set starts from, trained once, on training events alone. The first "
        "table of a data set compares at equal terms: nobody in it had a larger tuning budget than a neural peer. "
        "Those of ours that had one stand in a table of their own; budgets are below.",
        "Learned from: *training*: events before the validation event; *training, counts: all*: the same, but for the "
        "transitions and recency beside the networks, which count everything before the test target, as *all* does. "
        "Histories hold the validation event for everybody. Peers know items by their ids; ours read their texts too.",
        "Items of equal score stand in the order in which the model lists them. Our evaluation report takes the mean "
        "over all orders instead: figures of heuristics that score many items the same may differ from it.",
        "Training counts wall clock of the setting that was kept: the model's own preparation, validation after each "
        "epoch and all; peak memory is the process's. Recommending: lists of 100 for all users.",
        "",
    ]


def _row(cell: dict[str, Any]) -> list[str]:
    metrics, training = cell["metrics"], cell["training"]
    return [
        cell["label"],
        LEARNED_FROM[_trains_on(cell)],
        str(cell["seed"]),
        *(f"{metrics[name]:.4f} [{low:.4f}, {high:.4f}]" for name, low, high in _with_ends(cell, "hr@10", "ndcg@10")),
        *(f"{metrics[name]:.4f}" for name in ("mrr@10", "hr@50", "ndcg@50", "coverage@10")),
        *(_difference(cell.get(kind)) for kind in AGAINST),
        _number(training["seconds"]),
        _number(cell["epochs"], 1),
        _number(training["peak_mb"]),
        _number(cell["recommending"]["users_per_second"]),
    ]


def _trains_on(cell: dict[str, Any]) -> str:
    peer: str = cell["peer"]
    return trains_on(peer.removeprefix(OURS)) if peer.startswith(OURS) else cell["trains_on"]


def _with_ends(cell: dict[str, Any], *names: str) -> list[tuple[str, float, float]]:
    return [(name, *cell["intervals"][name]) for name in names]


def _difference(paired: dict[str, Any] | None) -> str:
    return f"{paired['difference']:+.4f} [{paired['low']:+.4f}, {paired['high']:+.4f}]" if paired else "–"


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _unpaired(cells: list[dict[str, Any]]) -> list[str]:
    """Say which of our rows are missing, so that a dash under Δ has a reason."""
    present = {f"{cell['peer']}-{cell['seed']}" for cell in cells if "metrics" in cell}
    missing = sorted({reference_of(cell) for cell in cells if "metrics" in cell} - present)
    named = ", ".join(f"`{name}`" for name in missing)
    return [f"No Δ for rows that would be compared with {named}: not measured.", ""] if missing else []


def _budgets(cells: list[dict[str, Any]]) -> list[str]:
    """Peers' tuning budgets, and ours."""
    peers = _neural_budgets(cells)
    scored = _one_each([cell for cell in cells if "metrics" in cell and cell["peer"].startswith(OURS)])
    ours = {cell["label"].strip("*"): budget for cell in scored if (budget := _tuning(cell))[1] is not None}
    lines = []
    if peers:
        lines += [f"Tuning budget of each neural peer, settings × wall clock: {'; '.join(map(_times, peers))}."]
    if ours:
        budgets = "; ".join(f"{label} {_times(budget)}" for label, budget in sorted(ours.items()))
        lines += [f"Ours, settings tried × seconds that the kept one trained: {budgets}."]
    machines = sorted({_machine(cell["machine"]) for cell in cells if "machine" in cell})
    return [*lines, *(f"Machine: {machine}." for machine in machines), ""]


def _tuning(cell: dict[str, Any]) -> tuple[int, float | None]:
    """One of our rows' budget: settings tried until today, each booked with the seconds that the kept one trained."""
    return trials_of(cell["data_set"], cell["peer"].removeprefix(OURS)), cell["training"]["seconds"]


def _times(budget: tuple[int, float | None]) -> str:
    return f"{budget[0]} × {budget[1]:,.0f} s"


def _machine(facts: dict[str, Any]) -> str:
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, torch {facts['torch']}"


def main() -> None:
    """Read the folders to score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchange", type=Path, required=True, help="folder of the exchange folders")
    parser.add_argument("--cells", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--results", type=Path, default=RESULTS / "peers", help="where scored cells are committed")
    arguments = parser.parse_args()
    score_all(arguments.exchange, arguments.cells, arguments.results)


def score_all(exchanges: Path, cells: Path, results: Path) -> None:
    """Score the cells of every data set that has any; write the summary and the tables, and print these."""
    for folder in sorted(path for path in exchanges.iterdir() if (cells / path.name).is_dir()):
        score_data_set(read_exchange(folder), cells, results)
    found = read_results(results)
    summary = {
        name: {
            f"{cell['peer']}-{cell['seed']}": {
                key: cell[key] for key in ("label", "time", "metrics", "intervals", *AGAINST, "failed") if key in cell
            }
            for cell in cells
        }
        for name, cells in found.items()
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / SUMMARY_NAME).write_text(dump_json(summary), encoding="utf-8")
    table = as_markdown(found)
    results.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
