"""Training of the LLM recommender (HyMiRec, parts 4 and 5).

A training example is one random cut in a user's training events: [long history] [recent window] | targets. One
forward pass carries three losses:
- *matching* (DMIL, the paper's): the K refined interests share out the next W events;
- *next item* (our choice): every recent position predicts its next event;
- *merge* (our choice): all interests together predict the first event after the cut, which teaches the gate.
The paper has the first alone: weights of 0 for the others, and then no "now" interest (`teaches_now`).

Notable: targets are catalogue vectors, never outputs of the user side; the order of events is kept; short
histories get W_u = min(W, ⌊n/2⌋) targets (fewer where the cut is later), and cuts are drawn anew each epoch. All
three losses compare their targets with the same, by `negatives`: the catalogue, a sample of it, or the step's targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prismrec.models.events import EventBatch
from prismrec.models.rankers import RecommenderRanker
from prismrec.models.recommender import Refined
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.training.loop import WHOLE, Loss, Share, part_of_mean
from prismrec.training.losses import catalogue_cross_entropy, merged_cross_entropy
from prismrec.training.matching import dmil_loss
from prismrec.training.negatives import Negatives, draw_shares, in_batch_negatives, sampled_negatives
from prismrec.training.sequences import Places, TrainingData, bucketed_batches, padded, places
from prismrec.training.speed import Work


class Cut(NamedTuple):
    """B users' cuts: events before the cut are input, the `ahead_B` after it targets."""

    users_B: Tensor
    cuts_B: Tensor
    ahead_B: Tensor

    def of(self, users: slice) -> Cut:
        """The cuts of some of the users."""
        return Cut(*(part_B[users] for part_B in self))


def _training_counts(data: TrainingData) -> Tensor:
    """[N] training events of every item."""
    offsets_U1, ends_U = data.events.offsets_U1, torch.as_tensor(data.train_ends_U)
    lengths_U = offsets_U1.diff()
    place_E = torch.arange(int(offsets_U1[-1])) - offsets_U1[:-1].repeat_interleave(lengths_U)
    trained_E = place_E < ends_U.repeat_interleave(lengths_U)
    return torch.bincount(data.events.items_E[trained_E], minlength=len(data.recommendable_N))


class RecommenderTask:
    """The LLM recommender on frozen item vectors, to which it may learn offsets; the ranker holds both."""

    name = "llm recommender"
    start_competes = False

    def __init__(self, ranker: RecommenderRanker, data: TrainingData, parameters: LLMRecommenderParameters) -> None:
        self.ranker, self.data, self.parameters = ranker, data, parameters
        self.module = self.recommender = ranker.recommender
        self.items_ND = ranker.vectors_ND
        self.generator = torch.Generator().manual_seed(parameters.seed)
        self.share_N = None  # of every item among the negatives
        if parameters.negatives != "full":
            exponent = parameters.negative_exponent if parameters.negatives == "sampled" else 1.0
            self.share_N = draw_shares(_training_counts(data), exponent)

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

    def size(self, batch: Cut) -> Work:
        """Next-item predictions; recent and long events."""
        recent_B = batch.cuts_B.clamp_max(self.parameters.recent_length)
        long_B = (batch.cuts_B - recent_B).clamp_max(self.parameters.long_length)
        events = int(recent_B.sum())
        slots = padded(recent_B) + self.recommender.encoder.slots(long_B)
        positions = min(events, self.parameters.training.positions_per_step)
        return Work(len(recent_B), positions, events + int(long_B.sum()), slots)

    def loss(self, batch: Cut, share: Share = WHOLE) -> Loss:
        """Matching loss plus the weighted next-item and merge losses."""
        users, window = share.of(len(batch.users_B)), self.parameters.target_window
        lottery_BW = torch.rand(len(batch.users_B), window, generator=self.generator)
        predicted = places(batch.cuts_B.clamp_max(self.parameters.recent_length)).sample(
            self.parameters.training.positions_per_step, self.generator
        )
        all_rows = int(batch.ahead_B.sum()), len(predicted.users_P), len(batch.users_B)
        negatives = self._negatives(batch, predicted, users)
        return self._loss(batch.of(users), lottery_BW[users], predicted.of(users), negatives, all_rows)

    def _negatives(self, batch: Cut, predicted: Places, users: slice) -> Negatives | None:
        """What the targets of a step are compared with; None is the whole catalogue."""
        if self.share_N is None:
            return None
        if self.parameters.negatives == "sampled":
            return sampled_negatives(self.share_N, self.parameters.num_negatives, self.generator)
        after = self.data.events.cut(batch.users_B, batch.cuts_B, batch.cuts_B + batch.ahead_B)
        within_P = batch.cuts_B[predicted.users_P] - predicted.back_P + 1
        targets_P = self.data.events.item_at(batch.users_B[predicted.users_P], within_P)
        targets_T = torch.cat([after.items_BL[after.mask_BL], targets_P])
        users_T = torch.cat([after.mask_BL.nonzero()[:, 0], predicted.users_P])
        return in_batch_negatives(targets_T, users_T, self.share_N, users)

    def _loss(
        self,
        batch: Cut,
        lottery_BW: Tensor,
        predicted: Places,
        negatives: Negatives | None,
        all_rows: tuple[int, int, int],
    ) -> Loss:
        """The loss of one share; `all_rows` are the matching, next-item and merge rows of the whole batch."""
        recent, refined = self.ranker.state(self.data.training_events, batch.users_B, batch.cuts_B)
        after = self.data.events.cut(
            batch.users_B, batch.cuts_B, batch.cuts_B + batch.ahead_B, self.parameters.target_window
        )
        scale, items_ND = self.recommender.scale, self.recommender.items(self.items_ND)
        matching = dmil_loss(
            refined.refined_BKD, after.items_BL, after.mask_BL, items_ND, scale,
            self.parameters.duplicate_cosine, lottery_BW, negatives,
        )  # fmt: skip
        first_B = self.data.events.item_at(batch.users_B, batch.cuts_B)
        next_item = self._next_item(recent, refined, items_ND, first_B, predicted, negatives)
        everybody_B = torch.arange(len(first_B), device=first_B.device)
        merge = merged_cross_entropy(
            refined.interests, first_B, items_ND, scale, refined.gate_BK1, negatives and negatives.of(everybody_B)
        )
        rows = int(batch.ahead_B.sum()), len(predicted.users_P), len(first_B)
        matching, next_item, merge = (
            part_of_mean(mean, own, of)
            for mean, own, of in zip((matching, next_item, merge), rows, all_rows, strict=True)
        )
        weights = self.parameters
        total = weights.matching_weight * matching + weights.next_item_weight * next_item + weights.merge_weight * merge
        return Loss(total, {"matching": matching, "next_item": next_item, "merge": merge})

    def _next_item(
        self,
        recent: EventBatch,
        refined: Refined,
        items_ND: Tensor,
        first_B: Tensor,
        predicted: Places,
        negatives: Negatives | None,
    ) -> Tensor:
        targets_BL = torch.cat([recent.items_BL[:, 1:], first_B[:, None]], dim=1)
        return catalogue_cross_entropy(
            predicted.take(refined.next_BLD), predicted.take(targets_BL), items_ND, self.recommender.scale,
            None, negatives and negatives.of(predicted.users_P),
        )  # fmt: skip

    def validate(self) -> dict[str, float]:
        """Full ranking of the validation events by the merge of all interests."""
        self.ranker.refresh()
        return self.data.validate(self.ranker)
