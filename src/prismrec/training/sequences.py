"""What the training tasks share: users' events with their cut points, length-bucketed batches, validation.

A crop is a slice of one user's training events. Long histories get a new random crop each epoch; batches are made
of crops of similar length, so that little is padded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prismrec.metrics.ranking import concatenate, rank_targets, ranking_metrics
from prismrec.models.events import EventBatch, EventTable
from prismrec.models.rankers import Ranker
from prismrec.retrieval.topk import exclude

VALIDATION_CHUNK = 128  # users scored at once
UNTIMED_SHARE = 0.1  # users trained on without times, since a request may come without them
BUCKET_BATCHES = 16  # batches among which crops are sorted by length


class Crops(NamedTuple):
    """Slices [start, end) of B users' events."""

    users_B: Tensor
    starts_B: Tensor
    ends_B: Tensor


class TrainingData:
    """Events, cut points and the catalogue of one data set.

    Args:
        events: all users' events.
        train_ends_U: each user's first `train_end` events are training.
        validation_U: position of each user's validation event.
        recommendable_N: which items may be recommended.
        num_validation_users: a fixed random sample of so many users is validated on (all, when there are fewer).
        seed: draws that sample.
    """

    def __init__(
        self,
        events: EventTable,
        train_ends_U: np.ndarray,
        validation_U: np.ndarray,
        recommendable_N: np.ndarray,
        num_validation_users: int,
        seed: int,
    ) -> None:
        self.events = events
        untimed_U = np.random.default_rng([seed, 1]).random(len(events)) < UNTIMED_SHARE
        self.training_events = events.without_times(untimed_U)
        self.train_ends_U = np.asarray(train_ends_U, dtype=np.int64)
        self.validation_U = np.asarray(validation_U, dtype=np.int64)
        self.recommendable_N = torch.as_tensor(recommendable_N)
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(events))[:num_validation_users]
        # Similar lengths side by side: validation batches are padded too.
        self.validation_users = chosen[np.argsort(self.validation_U[chosen], kind="stable")]

    def cut(self, crops: Crops) -> EventBatch:
        """The crops' events, to train on."""
        return self.training_events.cut(crops.users_B, crops.starts_B, crops.ends_B)

    def validate(self, ranker: Ranker) -> dict[str, float]:
        """HR and NDCG at 10 of the validation event among all items not in the user's history."""
        ranks = []
        for start in range(0, len(self.validation_users), VALIDATION_CHUNK):
            chosen = self.validation_users[start : start + VALIDATION_CHUNK]
            users_B = torch.as_tensor(chosen)
            ends_B = torch.as_tensor(self.validation_U[chosen])
            seen = self.events.cut(users_B, torch.zeros_like(ends_B), ends_B)
            scores_BN = exclude(ranker.scores(self.events, users_B, ends_B), seen, self.recommendable_N)
            ranks.append(rank_targets(scores_BN, self.events.item_at(users_B, ends_B)))
        return ranking_metrics(concatenate(ranks), cutoffs=(10,))


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
