"""implicit (ALS, BPR, item-kNN): fitted at once, order-free.

Settings are chosen with models of the training events; the one that is handed in is fitted anew on everything before
the test target, for a model without a sequence knows a user only through the matrix it was fitted on. Both fits
count as training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import CosineRecommender

from benchmarks.peers.exchange import LIST_LENGTH, Exchange, ndcg_at_10
from benchmarks.peers.registry import Settings
from benchmarks.peers.run import Trained

# Scores at most this high are no recommendations: filtered items get the lowest float, and lists of item-kNN, whose
# scores are positive, are filled up with zeros.
NO_ITEM = {"implicit_item_knn": 0.0, "implicit_als": -1e38, "implicit_bpr": -1e38}


def train(peer: str, exchange: Exchange, settings: Settings, seconds: float, seed: int) -> Trained:
    """Fit on the training part for validation, then on everything before the test target."""
    chosen, matrix = _fit(peer, exchange, exchange.train_end_U, settings, seed)
    validation = ndcg_at_10(_recommend(peer, chosen, matrix), exchange.targets(exchange.validation_U))
    final, final_matrix = _fit(peer, exchange, exchange.test_U, settings, seed)
    return Trained(validation, 1, [], lambda: _recommend(peer, final, final_matrix), {})


def _fit(peer: str, exchange: Exchange, ends_U: np.ndarray, settings: Settings, seed: int) -> tuple[Any, sp.csr_matrix]:
    known_E = exchange.before(ends_U)
    pairs = (exchange.event_users[known_E], exchange.items[known_E])
    matrix = sp.csr_matrix((np.ones(known_E.sum(), np.float32), pairs), (exchange.num_users, exchange.num_items))
    if peer == "implicit_item_knn":
        model = CosineRecommender(**settings)
    else:
        kind = {"implicit_als": AlternatingLeastSquares, "implicit_bpr": BayesianPersonalizedRanking}[peer]
        model = kind(**settings, random_state=seed)
    model.fit(matrix, show_progress=False)
    return model, matrix


def _recommend(peer: str, model: Any, matrix: sp.csr_matrix) -> np.ndarray:
    items_UK, scores_UK = model.recommend(
        np.arange(matrix.shape[0]), matrix, N=LIST_LENGTH, filter_already_liked_items=True
    )
    return np.where(scores_UK > NO_ITEM[peer], items_UK, -1).astype(np.int32)
