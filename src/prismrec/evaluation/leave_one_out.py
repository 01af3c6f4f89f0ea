"""Protocol A: leave-one-out, full ranking over the catalogue.

The last event of a user is the test target, the one before it the validation target. For the test, everything before
the target is history, the validation event included. Items of the history are never recommended; the target cannot
be among them where repeats are dropped, and where they are kept such cases are counted and left out, and said.

Notable: users are ranked in chunks, all rankers on the same chunk and the same mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from prismrec.metrics.ranking import CUTOFFS, TargetRank, concatenate, coverage, rank_targets, ranking_metrics
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker
from prismrec.retrieval.topk import exclude, top_k

CHUNK = 128  # users ranked at once


class Cases(NamedTuple):
    """Users with a target that is not in their history."""

    users: np.ndarray  # rows of the event table
    targets: np.ndarray  # positions of the targets; all events before them are history
    repeated: int  # cases left out because the target is in the history


def leave_one_out_cases(events: EventTable, targets_U: np.ndarray) -> Cases:
    """All users whose target is new to them, by length of history."""
    repeated = np.zeros(len(events), dtype=bool)
    for start in range(0, len(events), CHUNK):
        users_B = torch.arange(start, min(start + CHUNK, len(events)))
        ends_B = torch.as_tensor(targets_U[start : start + CHUNK])
        seen = events.cut(users_B, torch.zeros_like(ends_B), ends_B)
        target_B = events.item_at(users_B, ends_B)
        repeated[start : start + CHUNK] = ((seen.items_BL == target_B[:, None]) & seen.mask_BL).any(1).numpy()
    users = np.flatnonzero(~repeated)
    users = users[np.argsort(targets_U[users], kind="stable")]
    return Cases(users, targets_U[users], int(repeated.sum()))


class Evaluation(NamedTuple):
    """One ranker on all cases."""

    rank: TargetRank
    metrics: dict[str, float]


@torch.inference_mode()
def evaluate(
    rankers: Mapping[str, Ranker],
    events: EventTable,
    cases: Cases,
    recommendable_N: torch.Tensor,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, Evaluation]:
    """HR, NDCG and coverage at 10, 20 and 50 of every ranker.

    Args:
        progress: wraps the iterable of chunks, for a progress bar.
    """
    ranks: dict[str, list[TargetRank]] = {name: [] for name in rankers}
    lists: dict[str, list[np.ndarray]] = {name: [] for name in rankers}
    for start in progress(range(0, len(cases.users), CHUNK)):
        users_B = torch.as_tensor(cases.users[start : start + CHUNK])
        ends_B = torch.as_tensor(cases.targets[start : start + CHUNK])
        seen = events.cut(users_B, torch.zeros_like(ends_B), ends_B)
        target_B = events.item_at(users_B, ends_B)
        for name, ranker in rankers.items():
            scores_BN = exclude(ranker.scores(events, users_B, ends_B), seen, recommendable_N)
            ranks[name].append(rank_targets(scores_BN, target_B))
            lists[name].append(top_k(scores_BN, max(CUTOFFS)).numpy())
    return {name: _summarise(ranks[name], lists[name], int(recommendable_N.sum())) for name in rankers}


def _summarise(ranks: list[TargetRank], lists: list[np.ndarray], num_items: int) -> Evaluation:
    rank, recommended_UK = concatenate(ranks), np.concatenate(lists)
    metrics = ranking_metrics(rank)
    for k in CUTOFFS:
        metrics[f"coverage@{k}"] = coverage(recommended_UK[:, :k], num_items)
    return Evaluation(rank, metrics)


def as_table(report: Mapping[str, Any]) -> str:
    """The report's figures as a Markdown table, best NDCG@10 first."""
    columns = [f"{metric}@{k}" for metric in ("hr", "ndcg") for k in CUTOFFS] + [f"coverage@{CUTOFFS[0]}"]
    models = sorted(report["models"].items(), key=lambda entry: -entry[1]["ndcg@10"])
    lines = [
        f"Protocol: {report['protocol']}. Cases: {report['cases']}. Split: {report['split_hash'][:12]}.",
        "",
        "| model | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    lines += [f"| {name} | " + " | ".join(f"{m[c]:.4f}" for c in columns) + " |" for name, m in models]
    return "\n".join(lines) + "\n"
