"""The novelty dial on a finished workspace: what it finds of interests that a history does not show, and what it costs.

    python -m benchmarks.novelty_dial --env base --part validation
    python -m benchmarks.novelty_dial --env base --out benchmarks/results/novelty_dial

`prismrec` and `gemirec` at several values of the dial, which adds so many nats to every cell of the dictionary that no
event of the history has. Beside them the trained baselines and the heuristics as they are; and SASRec, and SASRec with
transitions, turned in the same way by the same cells, on the scale of their own log-likelihoods: what a rule does that
anybody could put on top who has the dictionary. All read the order of events only, the history is filtered. For each:
Recall@50 of all targets and of those in such cells, NDCG@10, means over users with 95 % bootstrap intervals, and recall
of new interests against the best of the baselines as they are, paired over the users that have such a target. Choose a
value by `--part validation`.

Shapes: B users of a chunk, N items, C cases, T targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gemirec_posterior import load_rankers, parse, sampled, write
from benchmarks.peers.prepare import open_environment
from prismrec.data.histories import SplitPoints
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.intervals import bootstrap_means, paired_bootstrap
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.metrics.interests import new_interest_recall, new_interests
from prismrec.metrics.ranking import per_user_metrics
from prismrec.models.events import EventTable
from prismrec.models.posterior import Knobs
from prismrec.models.rankers import GEMIREC, HYMIREC, PRISMREC, Ranker
from prismrec.models.retrieval_head import CellTable
from prismrec.pipelines.evaluation.nodes import baseline_rankers, heuristic_rows
from prismrec.pipelines.inputs import active_items, event_table

VALUES = (0.5, 1.0, 2.0, 3.0)  # of the dial, in nats; the service takes 0 to 5
TURNED = ("sasrec", "sasrec_transitions")
NEW, ALL = "new_interest_recall@50", "recall@50"
BASELINES = (
    "sasrec",
    "sasrec_transitions",
    "comirec",
    "comirec_transitions",
    "decayed_markov",
    "item_knn",
    "ease",
    "popularity",
)


class Turned(Ranker):
    """A ranker whose scores of items in cells that the history lacks are so much higher.

    Args:
        scale: what makes log-likelihoods of its scores.
        table: the dictionary's cells.
        value: of the dial, nats.
    """

    def __init__(self, ranker: Ranker, scale: float, table: CellTable, value: float) -> None:
        self.ranker, self.scale, self.table, self.value = ranker, scale, table, value

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        """[B, N]."""
        seen_BG = self.table.seen(events.cut(users_B, torch.zeros_like(ends_B), ends_B))
        said_BN = self.scale * self.ranker.scores(events, users_B, ends_B)
        return said_BN + self.value * ~seen_BG[:, self.table.cells_N]


def rows(catalog: Any, part: str, recommendable_N: torch.Tensor) -> dict[str, Ranker]:
    """Everybody that is ranked, by name."""
    ours = load_rankers(catalog, part)
    counted = catalog.load("counted" if part == "test" else "training_counted")
    histories, points = catalog.load("histories"), SplitPoints.from_frame(catalog.load("splits"))
    starts_U = points.test_start_U if part == "test" else points.validation_start_U
    sasrec, comirec, *merges = (catalog.load(n) for n in ("sasrec", "comirec", "sasrec_merge", "comirec_merge"))
    trained = baseline_rankers(sasrec, comirec, counted, *merges)
    counted_rows, _ = heuristic_rows(histories, starts_U, recommendable_N, event_table(histories), recent_days=30)
    known = {ranker.name: ranker for ranker in trained} | {name: row.ranker for name, row in counted_rows.items()}
    turned: dict[str, Ranker] = {
        f"{name} novelty {value:g}": ours[name].with_knobs(Knobs(novelty=value))
        for name in (PRISMREC, GEMIREC)
        for value in VALUES
    }
    scales = {
        "sasrec": float(known["sasrec"].model.scale.detach()),
        "sasrec_transitions": 1.0,
    }  # a merge is a log-likelihood
    turned |= {
        f"{name} novelty {value:g}": Turned(known[name], scales[name], ours[GEMIREC].table, value)
        for name in TURNED
        for value in VALUES
    }
    return {
        **{name: ours[name] for name in (HYMIREC, PRISMREC, GEMIREC)},
        **turned,
        **{name: known[name] for name in BASELINES if name in known},
    }


def measure(
    rankers: dict[str, Ranker], events: EventTable, cases: Cases, recommendable_N: torch.Tensor, cells_N: np.ndarray
) -> dict[str, Any]:
    """Figures of every row, and the best baseline of new interests."""
    ranked = evaluate(rankers, events, cases, recommendable_N, "filtered", lists=False)
    cells_CT = np.where(cases.mask_CT, cells_N[cases.targets_CT], -1)
    offsets_U1 = events.offsets_U1.numpy()
    starts_C = offsets_U1[cases.users_C]
    new_CT = new_interests(cells_CT, events.items_E.numpy(), starts_C, starts_C + cases.starts_C, cells_N)
    figures = {}
    for name, found in ranked.items():
        accuracy = per_user_metrics(found.ranks, (10, 50))
        new = new_interest_recall(found.ranks, new_CT, (50,))
        figures[name] = {NEW: new[NEW], ALL: accuracy[ALL], "ndcg@10": accuracy["ndcg@10"]}
    best = max((name for name in figures if name in BASELINES), key=lambda name: np.nanmean(figures[name][NEW]))
    return {
        "users": len(new_CT),
        "users_with_new_interests": int(new_CT.any(1).sum()),
        "best_baseline": best,
        "rows": {name: _row(found, figures[best][NEW]) for name, found in figures.items()},
    }


def _row(found: dict[str, np.ndarray], baseline_C: np.ndarray) -> dict[str, Any]:
    low_M, high_M = bootstrap_means(np.stack(list(found.values()), axis=1))
    row: dict[str, Any] = {
        metric: [float(np.nanmean(values_C)), float(low_M[m]), float(high_M[m])]
        for m, (metric, values_C) in enumerate(found.items())
    }
    row["new_to_best_baseline"] = float(np.nanmean(found[NEW]) / np.nanmean(baseline_C))
    return {**row, "new_minus_best_baseline": list(paired_bootstrap(found[NEW], baseline_C))}


def as_table(report: dict[str, Any]) -> str:
    """One line a row."""
    lines = [f"{'':<30}{'new interests':>24}{'to the best':>13}{'Recall@50':>24}{'NDCG@10':>24}"]
    for name, row in report["rows"].items():
        cells = ["{:.4f} [{:.4f} {:.4f}]".format(*row[metric]) for metric in (NEW, ALL, "ndcg@10")]
        lines.append(f"{name:<30}{cells[0]:>24}{row['new_to_best_baseline']:>13.2f}{cells[1]:>24}{cells[2]:>24}")
    asked = f"{report['users_with_new_interests']} of {report['users']} users have a target of a new interest"
    return "\n".join([*lines, f"{asked}; the best baseline there is {report['best_baseline']}"])


def main(arguments: list[str] | None = None) -> None:
    """Measure one environment's workspace."""
    options = parse(__doc__, arguments)
    catalog, settings, _ = open_environment(options.env)
    known, points = event_table(catalog.load("histories")), SplitPoints.from_frame(catalog.load("splits"))
    events = known.without_times(np.ones(len(known), dtype=bool))
    recommendable_N = torch.from_numpy(active_items(catalog.load("item_map")))
    starts_U, ends_U = (getattr(points, f"{options.part}_{end}_U") for end in ("start", "end"))
    cases = sampled(make_cases(events, starts_U, ends_U, "filtered"), options.users)
    cells_N = catalog.load("item_cells")["cells"]
    report = measure(rows(catalog, options.part, recommendable_N), events, cases, recommendable_N, cells_N)
    print(as_table(report), flush=True)
    split_hash = catalog.load("sequence_building_metrics")["split_hash"]
    made_with = {"env": options.env, "part": options.part, "split_hash": split_hash}
    write(options.out, settings["workspace"], {"made_with": made_with, **report})


if __name__ == "__main__":
    main()
