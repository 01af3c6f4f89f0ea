"""Our ranking metrics against torchmetrics on random cases, ties included: python benchmarks/oracle_metrics.py.

Prints the largest absolute difference of each metric in each kind of case, writes results/oracle_metrics.json beside
this file, and ends with status 1 when one exceeds the tolerance.

What torchmetrics does with ties: its NDCG averages over them, and is asked directly. Its HR, Recall and MRR take the
items in whatever order its sort leaves, so there the tied items are put into every possible order in turn, and the
mean over these orders is the reference. Two more habits of it: a target with a score of 0 or less never counts, so
scores are above 0; and its NDCG takes differences of a running sum, which loses the sixth digit in single precision,
so it runs in double.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import torch
import torchmetrics
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from prismrec.metrics.ranking import CUTOFFS, METRICS, per_user_metrics, rank_targets

RESULT = Path(__file__).parent / "results" / "oracle_metrics.json"
TOLERANCE = 1e-6
SEED = 0
ORACLE = {
    "hr": retrieval_hit_rate,
    "recall": retrieval_recall,
    "ndcg": retrieval_normalized_dcg,
    "mrr": retrieval_reciprocal_rank,
}

Case = tuple[torch.Tensor, list[int]]  # scores of all items, above 0; the targets


def random_cases(rng: np.random.Generator, users: int, items: int, targets: int, levels: int | None) -> list[Case]:
    """Scores all different, or of so many levels; up to so many targets."""
    cases = []
    for _ in range(users):
        scores = rng.permutation(items) + 1 if levels is None else rng.integers(1, levels + 1, items)
        chosen = rng.permutation(items)[: rng.integers(1, targets + 1)]
        cases.append((torch.tensor(scores, dtype=torch.float64), chosen.tolist()))
    return cases


def ours(case: Case, cutoffs: tuple[int, ...]) -> dict[str, float]:
    scores, targets = case
    targets_1t = torch.tensor([targets])
    ranks = rank_targets(scores[None], targets_1t, torch.ones_like(targets_1t, dtype=torch.bool))
    return {name: float(values[0]) for name, values in per_user_metrics(ranks, cutoffs).items()}


def theirs(case: Case, cutoffs: tuple[int, ...], metrics: tuple[str, ...] = METRICS) -> dict[str, float]:
    scores, targets = case
    relevant = torch.zeros(len(scores), dtype=torch.bool)
    relevant[targets] = True
    return {f"{name}@{k}": float(ORACLE[name](scores, relevant, top_k=k)) for k in cutoffs for name in metrics}


def over_every_order(case: Case, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Mean of torchmetrics over every order of the tied items."""
    scores, targets = case
    figures = []
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            places = torch.tensor(order).argsort()
            figures.append(theirs(((len(order) - places).double(), targets), cutoffs))
    return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}


def largest_differences(rows: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
    """Over all cases and cutoffs, a metric; only what the reference has is compared."""
    found: dict[str, float] = {}
    for own, reference in rows:
        for name, value in reference.items():
            metric = name.split("@")[0]
            found[metric] = max(found.get(metric, 0.0), abs(own[name] - value))
    return found


def main() -> int:
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(SEED)
    small = (1, 3, 5)
    kinds: dict[str, tuple[int, dict[str, float]]] = {}

    def compare(kind: str, rows: list[tuple[dict[str, float], dict[str, float]]]) -> None:
        kinds[kind] = len(rows), largest_differences(rows)

    for kind, targets in (("one target, no ties", 1), ("up to 30 targets, no ties", 30)):
        cases = random_cases(rng, 200, 1000, targets, None)
        compare(kind, [(ours(case, CUTOFFS), theirs(case, CUTOFFS)) for case in cases])
    cases = random_cases(rng, 200, 1000, 30, 20)
    compare("up to 30 targets, 20 levels of score", [(ours(c, CUTOFFS), theirs(c, CUTOFFS, ("ndcg",))) for c in cases])
    for kind, targets, levels in (
        ("one target, ties in every order", 1, 3),
        ("several targets, ties in every order", 4, 3),
    ):
        cases = random_cases(rng, 40, 6, targets, levels)
        compare(kind, [(ours(case, small), over_every_order(case, small)) for case in cases])
    cases = random_cases(rng, 4, 6, 3, 1)
    compare("constant scorer, every order", [(ours(case, small), over_every_order(case, small)) for case in cases])

    print(f"Largest absolute difference to torchmetrics {torchmetrics.__version__}\n")
    print(f"{'case':40}{'users':>6}" + "".join(f"{name:>11}" for name in METRICS))
    for kind, (users, found) in kinds.items():
        print(f"{kind:40}{users:6}" + "".join(f"{found[m]:11.1e}" if m in found else f"{'-':>11}" for m in METRICS))
    worst = max(value for _, found in kinds.values() for value in found.values())
    report = {
        "oracle": f"torchmetrics {torchmetrics.__version__}",
        "tolerance": TOLERANCE,
        "seed": SEED,
        "largest_difference": worst,
        "cases": {kind: {"users": users, "differences": found} for kind, (users, found) in kinds.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    verdict = "Equal" if worst <= TOLERANCE else "NOT equal"
    print(f"\n{verdict} within {TOLERANCE:g}; worst {worst:.1e}. Written: results/{RESULT.name}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
