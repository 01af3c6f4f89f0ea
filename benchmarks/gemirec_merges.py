"""GemiRec's merges, and the dial from accuracy to diversity, on a finished workspace.

    python -m benchmarks.gemirec_merges --env base --out benchmarks/results/gemirec_merges

Lists of the test cases (or `--part validation`), with the history filtered: all cells by likelihood; the K interests
shown merged by likelihood, by best score, by quotas; and the dial over all cells. For each: NDCG@10, Recall@50,
distinct cells among the first 10 and 50, and distinct cells of targets found among the first 50; means over users with
95 % bootstrap intervals, NDCG@10 also against the likelihood, paired.

Shapes: B users of a chunk, K interests, N items, T targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gemirec_posterior import load_rankers, parse, sampled, write
from benchmarks.peers.prepare import open_environment
from prismrec.data.histories import SplitPoints
from prismrec.evaluation.intervals import bootstrap_means, paired_bootstrap
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.metrics.interests import cells_hit
from prismrec.metrics.ranking import TargetRanks, nowhere, per_user_metrics, rank_targets
from prismrec.models.events import EventTable
from prismrec.models.rankers import GEMIREC
from prismrec.pipelines.inputs import event_table
from prismrec.retrieval import merging
from prismrec.retrieval.topk import exclude, top_k

DIALS = (0.1, 0.25, 0.5, 0.75, 1.0)
LIKELIHOOD = "likelihood"
CHUNK = 64  # users scored at once


def merged(claims: Any, scores_BN: Tensor, cells_N: Tensor, shown: int) -> dict[str, Tensor]:
    """Every merge's scores of what may be shown, by name: [B, N]."""
    joint_BKN = merging.cell_lists(scores_BN, cells_N, claims.weights_BG.topk(shown, dim=1).indices)
    lists = {
        LIKELIHOOD: scores_BN,
        "shown_likelihood": merging.factorised(joint_BKN),
        "shown_max_score": merging.max_score(joint_BKN),
        "shown_quotas": merging.quotas(joint_BKN),
    }
    dials = {f"dial_{d:g}": merging.diversified(scores_BN, claims.owners_BN, d) for d in DIALS}
    return {**lists, **dials}


def distinct(cells_BN: Tensor, scores_BN: Tensor, k: int) -> np.ndarray:
    """Distinct cells among the first k of every list: [B]."""
    cells_Bk = cells_BN.gather(1, top_k(scores_BN, k)).sort(dim=1).values
    return (1 + (cells_Bk[:, 1:] != cells_Bk[:, :-1]).sum(1)).double().numpy()


@torch.inference_mode()
def measure(gemirec: Any, events: EventTable, cases: Cases) -> dict[str, Any]:
    """Figures of every merge."""
    table = gemirec.table
    ranks: dict[str, TargetRanks] = {}
    mask_CT = torch.from_numpy(cases.mask_CT)
    variety: dict[str, dict[str, list[np.ndarray]]] = {}
    for start in range(0, len(cases.users_C), CHUNK):
        part = slice(start, start + CHUNK)
        users_B, ends_B = torch.from_numpy(cases.users_C[part]), torch.from_numpy(cases.starts_C[part])
        targets_BT, mask_BT = torch.from_numpy(cases.targets_CT[part]), mask_CT[part]
        claims = gemirec.claims(events, users_B, ends_B)
        seen = events.cut(users_B, torch.zeros_like(ends_B), ends_B)
        cells_BN = table.cells_N.expand(len(users_B), -1)
        allowed_BN = exclude(claims.scores_BN, seen, table.recommendable_N)
        for name, scores_BN in merged(claims, allowed_BN, table.cells_N, gemirec.num_interests).items():
            found_ranks = ranks.setdefault(name, nowhere(mask_CT))
            found_ranks.put(part, rank_targets(scores_BN, targets_BT, mask_BT))
            for k in (10, 50):
                found = variety.setdefault(name, {}).setdefault(f"cells@{k}", [])
                found.append(distinct(cells_BN, scores_BN, k))
    cells_CT = np.where(cases.mask_CT, table.cells_N.numpy()[cases.targets_CT], -1)
    figures: dict[str, dict[str, np.ndarray]] = {}
    for name, whole in ranks.items():
        accuracy = per_user_metrics(whole, (10, 50))
        figures[name] = {
            "ndcg@10": accuracy["ndcg@10"],
            "recall@50": accuracy["recall@50"],
            "cells_hit@50": cells_hit(whole, cells_CT, (50,))["cells_hit@50"],
            **{metric: np.concatenate(found) for metric, found in variety[name].items()},
        }
    return {name: _row(found, figures[LIKELIHOOD]["ndcg@10"]) for name, found in figures.items()}


def _row(found: dict[str, np.ndarray], likelihood_C: np.ndarray) -> dict[str, Any]:
    low_M, high_M = bootstrap_means(np.stack(list(found.values()), axis=1))
    row: dict[str, Any] = {
        metric: [float(np.nanmean(values_C)), float(low_M[m]), float(high_M[m])]
        for m, (metric, values_C) in enumerate(found.items())
    }
    return {**row, "ndcg@10_minus_likelihood": list(paired_bootstrap(found["ndcg@10"], likelihood_C))}


def as_table(report: dict[str, Any]) -> str:
    """One line a merge."""
    metrics = [metric for metric in report[LIKELIHOOD] if "minus" not in metric]
    lines = [f"{'merge':<18}" + "".join(f"{metric:>14}" for metric in metrics)]
    for name, row in report.items():
        lines.append(f"{name:<18}" + "".join(f"{row[metric][0]:>14.4f}" for metric in metrics))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure one environment's workspace."""
    options = parse(__doc__, arguments)
    catalog, settings, _ = open_environment(options.env)
    events, points = event_table(catalog.load("histories")), SplitPoints.from_frame(catalog.load("splits"))
    starts_U, ends_U = (getattr(points, f"{options.part}_{end}_U") for end in ("start", "end"))
    cases = sampled(make_cases(events, starts_U, ends_U, "filtered"), options.users)
    report = measure(load_rankers(catalog, options.part)[GEMIREC], events, cases)
    print(as_table(report), flush=True)
    made_with = {"env": options.env, "part": options.part, "users": len(cases.users_C)}
    write(options.out, settings["workspace"], {"made_with": made_with, "merges": report})


if __name__ == "__main__":
    main()
