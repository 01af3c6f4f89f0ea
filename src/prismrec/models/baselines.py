"""Baselines: what any model of many interests has to beat, evaluated beside it always; these are never served.

Untrained, each counted in seconds: recent popularity, decayed Markov transitions, item-kNN, EASE. Trained: SASRec and
ComiRec-SA (`sasrec.py`, `comirec.py`). Popularity is served too and stands in `rankers.py`.

Notable: a user's score is Σ 0.7^age · row for Markov, item-kNN and EASE alike: the latest events count most. The
heuristics count all users' events before their targets; those of other users may be later than a request.

Shapes: B users, U all users, E events, N items.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from prismrec.errors import UserError
from prismrec.models.comirec import ComiRec
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker
from prismrec.models.sasrec import SASRec
from prismrec.models.transitions import transition_counts, with_reverse
from prismrec.retrieval.search import largest_products

AGE_DECAY = 0.7  # weight of an event, per event that came after it
MAX_AGE = 64  # 0.7^64 < 1e-9: older events change no rank
EASE_RIDGE = 500.0
EASE_MOST_ITEMS = 13_000  # dense item × item matrices in float64, three at once: 4.1 GB here
KNN_MOST_NUMBERS = 200_000_000  # in its item × item matrix: 2.4 GB


class CountedEvents:
    """The events that untrained baselines may count: each user's first `ends`.

    Args:
        items, timestamps: [E] all users' events, user after user.
        offsets: [U+1] where each user's events start.
        ends: [U] how many of each user's first events are counted.
        num_items: N.
    """

    def __init__(
        self, items: np.ndarray, timestamps: np.ndarray, offsets: np.ndarray, ends: np.ndarray, num_items: int
    ) -> None:
        self.items, self.timestamps, self.offsets, self.ends, self.num_items = (
            items,
            timestamps,
            offsets,
            ends,
            num_items,
        )
        lengths = np.diff(offsets)
        self.user_E = np.repeat(np.arange(len(lengths)), lengths)
        self.counted_E = (np.arange(len(items)) - offsets[self.user_E]) < ends[self.user_E]

    def popularity(self) -> np.ndarray:
        """[N] number of counted events of every item."""
        return np.bincount(self.items[self.counted_E], minlength=self.num_items)

    def user_items(self) -> sp.csr_matrix:
        """[U, N] 1.0 where the user has a counted event of the item."""
        shape = (len(self.offsets) - 1, self.num_items)
        ones = np.ones(int(self.counted_E.sum()))
        matrix = sp.csr_matrix((ones, (self.user_E[self.counted_E], self.items[self.counted_E])), shape=shape)
        matrix.data[:] = 1.0
        return matrix


def decayed_history(events: EventTable, users_B: Tensor, ends_B: Tensor, num_items: int) -> sp.csr_matrix:
    """[B, N] sum of 0.7^age over the user's events of the item."""
    history = events.cut(users_B, (ends_B - MAX_AGE).clamp_min(0), ends_B)
    mask = history.mask_BL.numpy()
    user, column = np.nonzero(mask)
    weight = AGE_DECAY ** (mask.shape[1] - 1 - column)
    return sp.csr_matrix((weight, (user, history.items_BL.numpy()[mask])), shape=(len(mask), num_items))


class _DecayedRowsRanker(Ranker):
    """A user's score is Σ 0.7^age · row, with a row for every item; `rows` is [N, N], sparse or dense."""

    rows: sp.csr_matrix | np.ndarray

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Decayed sum of the rows of the last events: [B, N]."""
        scores_BN = decayed_history(events, users_B, ends_B, self.rows.shape[0]) @ self.rows
        return torch.from_numpy(scores_BN.toarray() if sp.issparse(scores_BN) else scores_BN)


class DecayedMarkovRanker(_DecayedRowsRanker):
    """Transition counts over √popularity, plus half the transpose."""

    name = "decayed_markov"

    def __init__(self, counted: CountedEvents) -> None:
        counts = transition_counts(counted.items, counted.offsets, counted.ends, counted.num_items)
        popularity_N = np.maximum(counted.popularity(), 1)
        self.rows = with_reverse(counts @ sp.diags(1.0 / np.sqrt(popularity_N)))


class ItemKNNRanker(_DecayedRowsRanker):
    """Cosine of two items' users.

    Raises:
        UserError: the matrix may not fit. It has no more numbers than there are pairs of items within histories, and
            no more than pairs of items of the catalogue.
    """

    name = "item_knn"

    def __init__(self, counted: CountedEvents) -> None:
        user_items = counted.user_items()
        pairs = int((np.diff(user_items.indptr).astype(np.float64) ** 2).sum())
        numbers = min(pairs, counted.num_items**2)
        if numbers > KNN_MOST_NUMBERS:
            raise UserError(
                f"Item-kNN may need a matrix of {numbers:,} numbers, more than {KNN_MOST_NUMBERS:,}.",
                "item_knn",
                "It is left out.",
            )
        together = (user_items.T @ user_items).tocsr()
        scale_N = 1.0 / np.sqrt(np.maximum(together.diagonal(), 1.0))
        row_P = np.repeat(np.arange(counted.num_items, dtype=np.int32), np.diff(together.indptr))
        together.data *= scale_N[row_P]
        together.data *= scale_N[together.indices]
        together.data[together.indices == row_P] = 0.0
        self.rows = together


class EASERanker(_DecayedRowsRanker):
    """EASE: ridge regression of every item on all others (Steck, 2019).

    Raises:
        UserError: the catalogue is too large for a dense item × item inverse.
    """

    name = "ease"

    def __init__(self, counted: CountedEvents) -> None:
        if counted.num_items > EASE_MOST_ITEMS:
            raise UserError(
                f"EASE would invert a matrix of {counted.num_items:,} x {counted.num_items:,} items, more than "
                f"{EASE_MOST_ITEMS:,}.",
                "ease",
                "It is left out.",
            )
        user_items = counted.user_items()
        gram = (user_items.T @ user_items).toarray()
        gram[np.diag_indices_from(gram)] += EASE_RIDGE
        factor = torch.linalg.cholesky(torch.from_numpy(gram))
        del gram
        inverse = torch.cholesky_inverse(factor)
        del factor
        weights = inverse.contiguous()  # it comes column by column, and every product with it would copy it first
        del inverse
        weights /= -weights.diagonal().clone()
        self.rows = weights.fill_diagonal_(0.0).numpy()


class RecentPopularityRanker(Ranker):
    """Items by their counted events within a window before the request's own time.

    Args:
        days: length of the window.

    Raises:
        UserError: all events are of one time, which says nothing of what is recent.
    """

    name = "recent_popularity"
    reads_time = True

    def __init__(self, counted: CountedEvents, days: float) -> None:
        if (counted.timestamps == counted.timestamps[:1]).all():
            raise UserError(
                "Recent popularity needs times, and there are none.",
                "timestamp",
                "Name the column of the logs that holds times, if there is one.",
            )
        order = np.argsort(counted.timestamps[counted.counted_E], kind="stable")
        self.times = counted.timestamps[counted.counted_E][order]
        self.items = counted.items[counted.counted_E][order]
        self.counted, self.window = counted, days * 86_400.0

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Events in the window before the time of the user's next event: [B, N]."""
        place_B = self.counted.offsets[users_B.numpy()] + ends_B.numpy()
        assert (place_B < self.counted.offsets[users_B.numpy() + 1]).all(), "a request has a next event, and its time"
        now_B = self.counted.timestamps[place_B]
        first_B, last_B = np.searchsorted(self.times, now_B - self.window), np.searchsorted(self.times, now_B)
        scores = [
            np.bincount(self.items[a:b], minlength=self.counted.num_items) for a, b in zip(first_B, last_B, strict=True)
        ]
        return torch.from_numpy(np.stack(scores).astype(np.float32))


class SASRecRanker(Ranker):
    """Cosine of the user's one vector to every item."""

    name = "sasrec"

    def __init__(self, model: SASRec) -> None:
        self.model, self.items_ND = model, model.items().detach()

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Scores of the latest `length` events' state: [B, N]."""
        history = events.cut(users_B, (ends_B - self.model.config.length).clamp_min(0), ends_B)
        state_BD: Tensor = self.model(self.items_ND[history.items_BL], history.mask_BL)[:, -1]
        return state_BD @ self.items_ND.T


class ComiRecRanker(Ranker):
    """Largest cosine of the user's interests to every item."""

    name = "comirec"

    def __init__(self, model: ComiRec) -> None:
        self.model, self.items_ND = model, model.items().detach()
        self.num_interests = model.config.num_interests

    def interest_vectors(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, K, D] unit vectors."""
        history = events.cut(users_B, (ends_B - self.model.config.length).clamp_min(0), ends_B)
        vectors_BKD: Tensor = self.model(self.items_ND[history.items_BL], history.mask_BL)
        return vectors_BKD

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """The largest over the interests: [B, N]."""
        return largest_products(self.interest_vectors(events, users_B, ends_B), self.items_ND)
