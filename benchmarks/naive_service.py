"""What serving_speed compares with: the same models behind BentoML as one writes it in an afternoon.

Eager fp32, BentoML's own defaults, torch's own number of threads. It answers with the same interests and lists, but
without reasons, names, filters or checks, so it does less for its time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np


@bentoml.service(name="naive")
class NaiveService:
    """One model, one method."""

    def __init__(self) -> None:
        from prismrec.artifacts.bundle import read_bundle
        from prismrec.models.loading import load_rankers

        folder = Path(os.environ["NAIVE_BUNDLE"])
        bundle = read_bundle(folder)
        self.items = bundle.items
        self.rows = {item.item_id: row for row, item in enumerate(bundle.items)}
        self.ranker = load_rankers(folder)[os.environ.get("NAIVE_MODEL") or bundle.manifest.default_model]

    @bentoml.api
    def recommend(self, history: list[str], timestamps: list[int], k: int = 10) -> dict[str, Any]:
        """Interests with their lists, and one list."""
        rows = np.array([self.rows[item] for item in history])
        ranking = self.ranker.rank(rows, np.array(timestamps), None)
        interests = [
            {"id": label, "weight": float(weight), "items": self._list(scores_N, rows, k)}
            for scores_N, weight, label in zip(
                ranking.interest_scores_KN, ranking.weights_K, ranking.labels_K, strict=True
            )
        ]
        return {"interests": interests, "items": self._list(ranking.scores_N, rows, k)}

    def _list(self, scores_N: np.ndarray, seen: np.ndarray, k: int) -> list[dict[str, Any]]:
        shown_N = scores_N.copy()
        shown_N[seen] = -np.inf
        best = np.argsort(-shown_N, kind="stable")[:k]
        return [
            {"item_id": self.items[row].item_id, "title": self.items[row].title, "score": float(shown_N[row])}
            for row in best
            if shown_N[row] > -np.inf
        ]
