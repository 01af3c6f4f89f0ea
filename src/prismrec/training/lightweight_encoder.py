"""Training of the item tower and the lightweight encoder together (HyMiRec, parts 1 and 3).

Two losses on one forward pass over many prefixes of a crop:
- *next item*: the merge of the K_c interests after an event predicts the next one (our choice; it is what makes the
  item vectors carry local transitions);
- *matching*: at one random cut a user, DMIL ties the next W events to the interests (`matching.py`).

Items lose their behavioural residual at random for a whole step, never-trained items always.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prismrec.models.events import EventBatch
from prismrec.models.item_tower import ItemTower
from prismrec.models.lightweight_encoder import LightweightEncoder
from prismrec.models.rankers import LightweightEncoderRanker
from prismrec.parameters.lightweight_encoder import LightweightEncoderParameters
from prismrec.training.loop import Loss
from prismrec.training.losses import merged_cross_entropy, sample_columns
from prismrec.training.matching import dmil_loss
from prismrec.training.sequences import Crops, TrainingData, bucketed_batches, random_crops


class LightweightEncoderTask:
    """Item tower and lightweight encoder, trained on crops of the long history.

    Args:
        text_NE: frozen text embeddings.
        trained_N: which items occur in training; the others have no residual to learn.
    """

    name = "lightweight encoder"

    def __init__(
        self,
        tower: ItemTower,
        encoder: LightweightEncoder,
        text_NE: Tensor,
        trained_N: np.ndarray,
        data: TrainingData,
        parameters: LightweightEncoderParameters,
    ) -> None:
        self.tower, self.encoder, self.data, self.parameters = tower, encoder, data, parameters
        self.module = nn.ModuleDict({"tower": tower, "encoder": encoder})
        self.text_NE = text_NE
        self.trained_N = torch.as_tensor(trained_N)
        self.generator = torch.Generator().manual_seed(parameters.seed)

    def item_vectors(self) -> Tensor:
        """The tower's vectors as they are served: [N, D]."""
        vectors_ND: Tensor = self.tower(self.text_NE, self.trained_N)
        return vectors_ND

    def epoch(self, rng: np.random.Generator) -> Sequence[Crops]:
        """One crop a user."""
        length = self.parameters.train_length
        users = np.flatnonzero(self.data.train_ends_U >= 2)
        ends_U = random_crops(self.data.train_ends_U, length, rng)
        starts_U = np.maximum(ends_U - length, 0)
        batches = bucketed_batches(users, (ends_U - starts_U)[users], self.parameters.training.batch_size, rng)
        return [Crops(torch.as_tensor(u), torch.as_tensor(starts_U[u]), torch.as_tensor(ends_U[u])) for u in batches]

    def loss(self, batch: Crops) -> Loss:
        """Next-item loss on a sample of positions plus the weighted matching loss."""
        keep_N = self.trained_N & (
            torch.rand(len(self.trained_N), generator=self.generator) >= self.parameters.residual_dropout
        )
        items_ND = self.tower(self.text_NE, keep_N)
        crop = self.data.cut(batch)
        next_BQ, known_BQ = sample_columns(
            crop.mask_BL[:, :-1], self.parameters.training.positions_per_step, self.generator
        )
        cut_B, ahead_B = self._cut(crop)
        interests_BQKD = self.encoder.after(
            items_ND[crop.items_BL],
            crop.gaps_BL,
            crop.mask_BL,
            torch.cat([next_BQ, cut_B[:, None] - 1], dim=1),
        )
        next_item = merged_cross_entropy(
            interests_BQKD[:, :-1][known_BQ], crop.items_BL.gather(1, next_BQ + 1)[known_BQ], items_ND,
            self.encoder.scale,
        )  # fmt: skip
        window_W = torch.arange(self.parameters.target_window)
        targets_BW = crop.items_BL.gather(1, (cut_B[:, None] + window_W).clamp_max(crop.items_BL.shape[1] - 1))
        matching = dmil_loss(
            interests_BQKD[:, -1], targets_BW, window_W < ahead_B[:, None], items_ND, self.encoder.scale,
            self.parameters.duplicate_cosine, self.generator,
        )  # fmt: skip
        total = next_item + self.parameters.matching_weight * matching
        return Loss(total, {"next_item": next_item, "matching": matching})

    def _cut(self, crop: EventBatch) -> tuple[Tensor, Tensor]:
        """A random cut a user: the column of the first target, and the number of targets W_u = min(W, ⌊n/2⌋)."""
        length_B = crop.mask_BL.sum(1)
        ahead_B = torch.clamp(length_B // 2, max=self.parameters.target_window)
        room_B = length_B - ahead_B
        before_B = (torch.rand(len(room_B), generator=self.generator) * room_B).long() + 1
        return crop.mask_BL.shape[1] - length_B + before_B, ahead_B

    def validate(self) -> dict[str, float]:
        """Full ranking of the validation events by the merge of the coarse interests."""
        ranker = LightweightEncoderRanker(self.encoder, self.item_vectors(), self.data.recommendable_N)
        return self.data.validate(ranker)
