"""An evaluation's JSON and training curves as a run writes them, with made-up figures of a plausible size."""

import math
from typing import Any

from prismrec.parameters.promotion import PromotionParameters

CUTOFFS = (10, 20, 50, 100)
METRIC = "ndcg@10"
CASES = 6034
NONE_LEFT_OUT = {"left_out": 0, "repeated": 0, "users_left_out": 0, "users_without_history": 0}
# row: label, family, time, interests, NDCG@10, coverage@10
ROWS: dict[str, tuple[str, str, str, int, float, float]] = {
    "popularity": ("Popularity", "heuristic", "free", 1, 0.0179, 0.058),
    "decayed_markov": ("Decayed Markov", "heuristic", "free", 1, 0.1428, 0.619),
    "item_knn": ("Item-kNN, decayed", "heuristic", "free", 1, 0.0959, 0.402),
    "sasrec": ("SASRec", "baseline", "free", 1, 0.1698, 0.664),
    "comirec": ("ComiRec-SA", "baseline", "free", 4, 0.1512, 0.690),
    "lightweight_encoder_time_free": ("Lightweight encoder", "prismrec", "free", 4, 0.1690, 0.681),
    "hymirec_time_free": ("HyMiRec", "prismrec", "free", 5, 0.1731, 0.672),
    "gemirec_time_free": ("GemiRec", "prismrec", "free", 8, 0.1602, 0.655),
    "recent_popularity": ("Recent popularity", "heuristic", "aware", 1, 0.0211, 0.071),
    "lightweight_encoder": ("Lightweight encoder", "prismrec", "aware", 4, 0.1861, 0.690),
    "hymirec": ("HyMiRec", "prismrec", "aware", 5, 0.1930, 0.688),
    "gemirec": ("GemiRec", "prismrec", "aware", 8, 0.1663, 0.658),
    "incumbent": ("Incumbent: lightweight_encoder", "incumbent", "aware", 1, 0.1858, 0.690),
}
SLICES: dict[str, list[tuple[str, int, float]]] = {
    "history_length": [("20-49", 2600, 0.9), ("50-99", 1500, 1.05), ("100-199", 1134, 1.1), ("200 or more", 800, 0.97)],
    "popularity_decile": [("no training event", 12, 0.0)]
    + [(f"{n + 1} ({40 * n}-{40 * n + 39} events)", CASES // 10, 0.25 + 0.15 * n) for n in range(10)],
    "cold_items": [("at most 5 training events", 61, 0.12)],
    "planted_interests": [
        ("2 interests", 2100, 1.1),
        ("3 interests", 2300, 1.0),
        ("target's interest in the history", 5400, 1.05),
        ("target's interest is new", 634, 0.4),
    ],
}


def parameters(**changes: Any) -> PromotionParameters:
    values = {
        "model": "auto",
        "selection_metric": f"validation_{METRIC}",
        "metric": METRIC,
        "min_coverage": 0.1,
        "min_coverage_share": 0.8,
        "max_interest_cosine": 0.95,
        "min_effective_rank": 1.5,
        "max_interest_share": 0.9,
        "min_cold_recall_share": 0.8,
        "min_utilisation": 0.25,
    }
    return PromotionParameters(**{**values, **changes})


def accuracy(ndcg: float, recall: float = 1.0) -> dict[str, float]:
    """HR, Recall, NDCG and MRR at all cutoffs, from one NDCG@10."""
    figures: dict[str, float] = {}
    for k in CUTOFFS:
        grown = ndcg * (1 + 0.31 * math.log2(k / 10))
        figures |= {f"hr@{k}": min(grown * 1.45 * (k / 10) ** 0.11, 1.0), f"ndcg@{k}": grown, f"mrr@{k}": grown * 0.7}
        figures[f"recall@{k}"] = figures[f"hr@{k}"] * recall
    return figures


def model_row(name: str) -> dict[str, Any]:
    label, family, time, interests, ndcg, coverage = ROWS[name]
    row: dict[str, Any] = {"label": label, "family": family, "time": time, "interests": interests}
    row |= accuracy(ndcg)
    for k in CUTOFFS:
        row[f"coverage@{k}"] = min(coverage * (k / 10) ** 0.15, 1.0)
        row[f"gini@{k}"] = 1 - 0.4 * coverage
        row[f"novelty@{k}"] = 9.5 + 2 * coverage
        row[f"popularity_lift@{k}"] = 2.2 - coverage
        row[f"diversity_text@{k}"] = 0.55 + 0.1 * coverage
        row[f"diversity_category@{k}"] = 0.61 + 0.12 * coverage
        row[f"category_kl@{k}"] = 1.3 - 0.4 * coverage
        row[f"cells_hit@{k}"] = 1.1 * row[f"hr@{k}"]
        row[f"cells_hit_share@{k}"] = row[f"hr@{k}"]
        row[f"new_interest_recall@{k}"] = 0.4 * row[f"hr@{k}"]
    if interests > 1:
        row |= {"effective_rank": 0.62 * interests, "interest_cosine": 0.31, "interest_jaccard@50": 0.12}
    if interests > 1 and family == "prismrec":
        row |= {"interests_shown": 0.5 * interests, "largest_interest_share": 0.48}
    return row | {f"validation_{key}": value * 1.06 for key, value in accuracy(ndcg).items()}


def interval(value: float, cases: int = CASES) -> list[float]:
    half = 1.96 * 0.36 / math.sqrt(cases)
    return [max(value - half, 0.0), value + half]


def report(incumbent: bool = True, verdict: dict[str, Any] | None = None) -> dict[str, Any]:
    """The whole JSON; `verdict` is its promotion."""
    names = [name for name in ROWS if incumbent or name != "incumbent"]
    models = {name: model_row(name) for name in names}
    with_interval = ("hr@", "recall@", "ndcg@", "mrr@", "novelty@", "diversity", "cells_hit", "new_interest")
    return {
        "data_set": "MovieLens-1M",
        "data_licence": "research use only, no redistribution",
        "seed": 20260101,
        "split_hash": "916cded1f58c33aa0f",
        "items": 3416,
        "cutoffs": list(CUTOFFS),
        "protocol": {
            "name": "leave_one_out",
            "description": "The last event of a user is the test, the one before it validation; full ranking.",
            "ties": "equal scores: the expectation over all their orders",
            "filter": "what a user has seen is never recommended",
            "repeats": "repeated events are dropped after the first, so no target is in the history",
            "time": "events of one second keep their order in the source",
        },
        "cases": {
            "validation": {"users": CASES, "targets": CASES, **NONE_LEFT_OUT},
            "test": {"users": CASES, "targets": CASES, **NONE_LEFT_OUT},
        },
        "models": models,
        "intervals": {
            name: {
                key: interval(row[key])
                for key in row
                if key.startswith(with_interval) and not key.startswith("validation_")
            }
            for name, row in models.items()
        },
        "paired": {"metric": METRIC, "against": paired(names), "others": {"hr@10": paired(names)}},
        "other_history": {
            "rule": "kept",
            "filter": "What a user has seen may be recommended again.",
            "cases": {"users": CASES, "targets": CASES, **NONE_LEFT_OUT, "repeated": 31},
            "models": (kept := {name: accuracy(models[name][METRIC] * 0.8) for name in names}),
            "intervals": {name: {key: interval(value) for key, value in row.items()} for name, row in kept.items()},
        },
        "slices": slices(names),
        "interest_curve": interest_curve(),
        "health": health(),
        "left_out": {"ease": "3,416 x 3,416 weights need more memory than evaluation.ease_memory allows"},
        "settings": {
            "bootstrap_draws": 2000,
            "history": "filtered",
            "baselines": {"dim": 64, "training": {"epochs": 6}},
            "promotion": parameters().model_dump(mode="json"),
        },
        "promotion": verdict or promoted(),
    }


def promoted() -> dict[str, Any]:
    return {
        "promoted": True,
        "candidate": "hymirec",
        "incumbent": {"model": "lightweight_encoder", "bundle": "0123456789abcdef", "same_split": True},
        "metric": METRIC,
        "difference": 0.0072,
        "low": 0.0021,
        "high": 0.0123,
        "guards": [
            {"guard": "coverage", "value": 0.688, "limit": 0.1, "kept": True, "note": "coverage@10 0.6880"},
            {
                "guard": "cold_recall",
                "value": None,
                "limit": None,
                "kept": True,
                "note": "not applicable: no cold item",
            },
        ],
        "reasons": ["hymirec beats the incumbent lightweight_encoder on ndcg@10."],
    }


def paired(names: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Every model against every other."""
    against: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    for reference in names:
        for name in names:
            if name != reference:
                difference = ROWS[name][4] - ROWS[reference][4]
                ends = {"low": difference - 0.005, "high": difference + 0.005}
                against[reference][name] = {"difference": difference, **ends}
    return against


def slices(names: list[str]) -> list[dict[str, Any]]:
    parts = []
    for kind, labels in SLICES.items():
        for label, cases, factor in labels:
            models = {}
            for name in names:
                figures = accuracy(ROWS[name][4] * factor)
                wanted = ("hr@10", "recall@10", "ndcg@10")
                models[name] = {key: [figures[key], *interval(figures[key], cases)] for key in wanted}
            parts.append({"slice": kind, "label": label, "cases": cases, "models": models})
    return parts


def interest_curve() -> list[dict[str, Any]]:
    points = []
    for model, most in (("lightweight_encoder", 4), ("hymirec", 5), ("gemirec", 8)):
        for number in [n for n in (1, 2, 3, 4, 6) if n < most] + [most]:
            reached = 1 - 0.45 / number
            points.append(
                {
                    "model": model,
                    "interests": number,
                    "cases": 1000,
                    "hr@10": 0.33 * reached,
                    "ndcg@10": ROWS[model][4] * reached,
                    "diversity_text@10": 0.5 + 0.03 * number,
                    "diversity_category@10": 0.55 + 0.02 * number,
                    "coverage@10": 0.3 + 0.05 * number,
                    "intervals": {
                        "hr@10": interval(0.33 * reached, 1000),
                        "ndcg@10": interval(ROWS[model][4] * reached, 1000),
                    },
                }
            )
    return points


def health() -> dict[str, dict[str, float]]:
    def codes(level: str, levels: int, size: int, joint: float) -> dict[str, float]:
        figures = {"cells": float(size**levels), "occupied_cells": 800.0, "utilisation_joint": joint}
        figures |= {"perplexity_joint": 620.5, "items_per_occupied_cell": 4.27, "largest_cell": 31.0}
        for n in range(1, levels + 1):
            figures |= {f"utilisation_{level}_{n}": 1.0 - 0.02 * n, f"perplexity_{level}_{n}": size * 0.9}
            figures[f"dead_codes_{level}_{n}"] = float(n)
        return figures

    posterior = {"posterior_validation_log_likelihood": -1.69071, "posterior_validation_calibration_error": 0.02836}
    return {"codebook": codes("layer", 3, 32, 0.97), "dictionary": {**codes("level", 2, 16, 0.83), **posterior}}


def curve(epochs: int, start: float, end: float, ndcg: float, from_start: float | None = None) -> dict[str, Any]:
    records = []
    if from_start is not None:
        validation = {"hr@10": from_start * 1.6, "ndcg@10": from_start}
        records.append({"epoch": 0, "loss": None, "parts": {}, "validation": validation})
    for epoch in range(1, epochs + 1):
        share = 1 - math.exp(-2.5 * epoch / epochs)
        loss = start + (end - start) * share
        validation = {"hr@10": ndcg * 1.6 * share, "ndcg@10": ndcg * share}
        parts = {"matching": loss * 0.8, "next": loss * 0.2}
        records.append({"epoch": epoch, "loss": loss, "parts": parts, "validation": validation})
    return {"epochs": records}


def curves() -> dict[str, dict[str, Any]]:
    return {
        "lightweight_encoder_curve": curve(12, 7.4, 5.6, 0.192),
        "llm_recommender_curve": curve(6, 6.9, 5.2, 0.199),
        "posterior_curve": curve(8, 4.1, 3.0, 0.11, from_start=0.1),
        "retrieval_curve": curve(8, 5.5, 4.4, 0.17),
        "sasrec_curve": curve(18, 7.9, 5.7, 0.176),
        "comirec_curve": curve(10, 8.0, 6.1, 0.158),
    }
