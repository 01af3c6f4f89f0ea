"""What the training tasks share: users' events with their cut points, length-bucketed batches, validation.

A crop is a slice of one user's training events. Long histories get a new random crop each epoch; batches are made
of crops of similar length, so that little is padded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prismrec.data.targets import distinct_targets
from prismrec.errors import UserError
from prismrec.metrics.ranking import nowhere, rank_targets, ranking_metrics
from prismrec.models.events import EventBatch, EventTable
from prismrec.models.rankers import Ranker
from prismrec.retrieval.chunks import chunk_size
from prismrec.retrieval.topk import exclude
from prismrec.training.losses import sample_rows

UNTIMED_SHARE = 0.1  # users trained on without times, and as many without the request's, as requests may come
BUCKET_BATCHES = 32  # batches among which crops are sorted by length: with 16, 11 % of ML-1M's slots were padding


class Crops(NamedTuple):
    """Slices [start, end) of B users' events."""

    users_B: Tensor
    starts_B: Tensor
    ends_B: Tensor

    def of(self, users: slice) -> Crops:
        """The crops of some of the users."""
        return Crops(*(part_B[users] for part_B in self))


class ValidationCases(NamedTuple):
    """Users to validate on, shortest history first."""

    users_C: Tensor
    starts_C: Tensor  # events of the history
    targets_CT: Tensor  # distinct items, none of the history
    mask_CT: Tensor  # False is padding


class TrainingData:
    """Events, cut points and the catalogue of one data set.

    Args:
        events: all users' events.
        train_ends_U: each user's first `train_end` events are training.
        validation_starts_U: position of each user's first validation target; all events before it are the history.
        validation_ends_U: position after the last one; where it equals the start, the user has none.
        recommendable_N: which items may be recommended.
        num_validation_users: a fixed random sample of so many users with a validation target that is not in their
            history is validated on (all, when there are fewer).
        seed: draws that sample.

    Raises:
        UserError: every validation target is in its user's history.
    """

    def __init__(
        self,
        events: EventTable,
        train_ends_U: np.ndarray,
        validation_starts_U: np.ndarray,
        validation_ends_U: np.ndarray,
        recommendable_N: np.ndarray,
        num_validation_users: int,
        seed: int,
    ) -> None:
        self.events = events
        draw_U = np.random.default_rng([seed, 1]).random(len(events))
        timeless = events.without_times(draw_U < UNTIMED_SHARE)
        self.training_events = timeless.without_request_times(draw_U > 1 - UNTIMED_SHARE)
        self.train_ends_U = np.asarray(train_ends_U, dtype=np.int64)
        self.recommendable_N = torch.as_tensor(recommendable_N)
        self.validation = _sample_cases(
            events,
            np.asarray(validation_starts_U, dtype=np.int64),
            np.asarray(validation_ends_U, dtype=np.int64),
            num_validation_users,
            np.random.default_rng(seed),
        )

    def cut(self, crops: Crops) -> EventBatch:
        """The crops' events, to train on."""
        return self.training_events.cut(crops.users_B, crops.starts_B, crops.ends_B)

    def validate(self, ranker: Ranker) -> dict[str, float]:
        """HR and NDCG at 10 of the validation targets among all items not in the user's history."""
        assert len(self.validation.users_C), "nobody to validate on"
        ranks = nowhere(self.validation.mask_CT)
        size = chunk_size(len(self.recommendable_N), ranker.held)
        for start in range(0, len(self.validation.users_C), size):
            chunk = slice(start, start + size)
            users_B, ends_B = self.validation.users_C[chunk], self.validation.starts_C[chunk]
            seen = self.events.cut(users_B, torch.zeros_like(ends_B), ends_B)
            scores_BN = exclude(ranker.scores(self.events, users_B, ends_B), seen, self.recommendable_N)
            ranks.put(chunk, rank_targets(scores_BN, self.validation.targets_CT[chunk], ranks.mask_CT[chunk]))
        metrics = ranking_metrics(ranks, cutoffs=(10,))
        return {name: metrics[name] for name in ("hr@10", "ndcg@10")}


def _sample_cases(
    events: EventTable, starts_U: np.ndarray, ends_U: np.ndarray, most: int, rng: np.random.Generator
) -> ValidationCases:
    """A random sample of the users with a validation target that is new to them."""
    users = np.flatnonzero(ends_U > starts_U)
    offsets, items = events.offsets_U1.cpu().numpy(), events.items_E.cpu().numpy()
    targets = distinct_targets(offsets, items, users, starts_U[users], ends_U[users], keep_seen=False)
    cases = np.flatnonzero(targets.mask_CT.any(1))
    if len(users) and not len(cases):
        raise UserError(
            "Every validation target is in its user's history, and early stopping counts none of these.",
            "sequence_building.repeats",
            "Set sequence_building.repeats to first, so that repeated events are no targets.",
        )
    cases = cases[rng.permutation(len(cases))[:most]]
    # Similar lengths side by side: validation batches are padded too.
    cases = cases[np.argsort(starts_U[users[cases]], kind="stable")]
    users = users[cases]
    arrays = (users, starts_U[users], targets.items_CT[cases], targets.mask_CT[cases])
    return ValidationCases(*(torch.as_tensor(array) for array in arrays))


class Places(NamedTuple):
    """Rows of a loss: events of B slices, padded on the left to whatever width."""

    users_P: Tensor
    back_P: Tensor  # 1 is the slice's last event

    def of(self, users: slice) -> Places:
        """The rows of some of the users, counted from the first of these."""
        mine_P = (self.users_P >= users.start) & (self.users_P < users.stop)
        return Places(self.users_P[mine_P] - users.start, self.back_P[mine_P])

    def sample(self, limit: int, generator: torch.Generator) -> Places:
        """At most `limit` of the rows."""
        rows_P = sample_rows(torch.arange(len(self.users_P)), limit, generator).to(self.users_P.device)
        return Places(self.users_P[rows_P], self.back_P[rows_P])

    def take(self, values: Tensor, ahead: int = 0) -> Tensor:
        """[P, …] the rows' values out of [B, L, …], or those of the events so many after them."""
        return values[self.users_P, values.shape[1] - self.back_P + ahead]


def places(lengths_B: Tensor, newest: int = 1) -> Places:
    """Every event of slices of these lengths, users in order, old to new.

    Args:
        newest: 2 leaves out each slice's last event.
    """
    back_L = torch.arange(int(lengths_B.max()), newest - 1, -1, device=lengths_B.device)
    users_P, columns_P = (back_L <= lengths_B[:, None]).nonzero(as_tuple=True)
    return Places(users_P, back_L[columns_P])


def padded(lengths_B: Tensor) -> int:
    """Slots of slices of these lengths, padded to the longest."""
    return len(lengths_B) * int(lengths_B.max())


def random_crops(ends_U: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """A random end for each user, such that at most `length` events before it form the crop: [U] int64."""
    earliest = np.minimum(ends_U, length)
    return rng.integers(earliest, ends_U + 1)


def bucketed_batches(
    users: np.ndarray, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Batches of users with similar lengths, in random order.

    Users are shuffled, sorted by length within chunks of a few batches, and cut into batches, so that batches
    differ from epoch to epoch.
    """
    shuffled = rng.permutation(len(users))
    batches: list[np.ndarray] = []
    for start in range(0, len(shuffled), batch_size * BUCKET_BATCHES):
        chunk = shuffled[start : start + batch_size * BUCKET_BATCHES]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches.extend(users[chunk[i : i + batch_size]] for i in range(0, len(chunk), batch_size))
    return [batches[index] for index in rng.permutation(len(batches))]
