"""Training of the LLM recommender (HyMiRec, parts 4 and 5).

A training example is one random cut in a user's training events: [long history] [recent window] | targets. One
forward pass carries three losses:
- *matching* (DMIL, the paper's): the K refined interests share out the next W events;
- *next item* (our choice, weight 0 = the paper): every recent position predicts its next event;
- *merge* (our choice): all interests together predict the first event after the cut, which teaches the gate.

Notable: targets are catalogue vectors, never outputs of the user side; the order of events is kept; short
histories get W_u = min(W, ⌊n/2⌋) targets (fewer where the cut is later), and cuts are drawn anew each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prismrec.models.events import EventBatch
from prismrec.models.rankers import HyMiRecRanker
from prismrec.models.recommender import Refined
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.training.loop import Loss
from prismrec.training.losses import catalogue_cross_entropy, merged_cross_entropy, sample_rows
from prismrec.training.matching import dmil_loss
from prismrec.training.sequences import TrainingData, bucketed_batches


class Cut(NamedTuple):
    """B users' cuts: events before the cut are input, the `ahead_B` after it targets."""

    users_B: Tensor
    cuts_B: Tensor
    ahead_B: Tensor


class RecommenderTask:
    """The LLM recommender on frozen item vectors; the ranker holds both."""

    name = "llm recommender"

    def __init__(self, ranker: HyMiRecRanker, data: TrainingData, parameters: LLMRecommenderParameters) -> None:
        self.ranker, self.data, self.parameters = ranker, data, parameters
        self.module = self.recommender = ranker.recommender
        self.items_ND = ranker.items_ND
        self.generator = torch.Generator().manual_seed(parameters.seed)

    def epoch(self, rng: np.random.Generator) -> Sequence[Cut]:
        """One cut a user, late enough to fill the recent window or half of a short history.

        The last event may be the only target, so that no event is never a target.
        """
        lengths_U = self.data.train_ends_U
        users = np.flatnonzero(lengths_U >= 2)
        ahead_U = np.minimum(self.parameters.target_window, lengths_U // 2)
        earliest_U = np.minimum(self.parameters.recent_length, lengths_U - ahead_U)
        cuts_U = rng.integers(earliest_U, np.maximum(lengths_U, earliest_U + 1))
        ahead_U = np.minimum(ahead_U, lengths_U - cuts_U)
        batches = bucketed_batches(users, cuts_U[users], self.parameters.training.batch_size, rng)
        return [Cut(torch.as_tensor(u), torch.as_tensor(cuts_U[u]), torch.as_tensor(ahead_U[u])) for u in batches]

    def loss(self, batch: Cut) -> Loss:
        """Matching loss plus the weighted next-item and merge losses."""
        recent, refined = self.ranker.state(self.data.training_events, batch.users_B, batch.cuts_B)
        after = self.data.events.cut(
            batch.users_B, batch.cuts_B, batch.cuts_B + batch.ahead_B, self.parameters.target_window
        )
        scale = self.recommender.scale
        matching = dmil_loss(
            refined.refined_BKD, after.items_BL, after.mask_BL, self.items_ND, scale,
            self.parameters.duplicate_cosine, self.generator,
        )  # fmt: skip
        first_B = self.data.events.item_at(batch.users_B, batch.cuts_B)
        next_item = self._next_item(recent, refined, first_B)
        merge = merged_cross_entropy(refined.interests, first_B, self.items_ND, scale, refined.gate_BK1)
        total = matching + self.parameters.next_item_weight * next_item + self.parameters.merge_weight * merge
        return Loss(total, {"matching": matching, "next_item": next_item, "merge": merge})

    def _next_item(self, recent: EventBatch, refined: Refined, first_B: Tensor) -> Tensor:
        targets_BL = torch.cat([recent.items_BL[:, 1:], first_B[:, None]], dim=1)
        rows = sample_rows(recent.mask_BL.nonzero(), self.parameters.training.positions_per_step, self.generator)
        return catalogue_cross_entropy(
            refined.next_BLD[rows[:, 0], rows[:, 1]], targets_BL[rows[:, 0], rows[:, 1]],
            self.items_ND, self.recommender.scale,
        )  # fmt: skip

    def validate(self) -> dict[str, float]:
        """Full ranking of the validation events by the merge of all interests."""
        return self.data.validate(self.ranker)
