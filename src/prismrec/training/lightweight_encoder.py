"""Training of the item tower and the lightweight encoder together (HyMiRec, parts 1 and 3).

Two losses on one forward pass over many prefixes of a crop:
- *next item*: the merge of the K_c interests after an event predicts the next one (our choice; it is what makes the
  item vectors carry local transitions);
- *matching*: at one random cut a user, DMIL ties the next W events to the interests (`matching.py`).

Items borrow their behavioural residual at random for a whole step, never-trained items always. The text encoder learns
with them unless it is frozen (`item_texts.py`).
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
from prismrec.training.item_texts import ItemTexts
from prismrec.training.loop import WHOLE, Loss, Share
from prismrec.training.losses import merged_cross_entropy, sample_columns
from prismrec.training.matching import dmil_loss
from prismrec.training.sequences import Crops, TrainingData, bucketed_batches, random_crops
from prismrec.training.speed import Work

CHUNK = 256  # users whose interests are computed at once


class EpochStart(Crops):
    """The first batch of an epoch: text embeddings are brought up to date before it."""


class LightweightEncoderTask:
    """Item tower and lightweight encoder, trained on crops of the long history.

    Args:
        text: frozen text embeddings [N, E], or the text encoder with the table of its own.
        trained_N: which items occur in training; the others have no residual to learn.
    """

    name = "lightweight encoder"
    start_competes = False

    def __init__(
        self,
        tower: ItemTower,
        encoder: LightweightEncoder,
        text: Tensor | ItemTexts,
        trained_N: np.ndarray,
        data: TrainingData,
        parameters: LightweightEncoderParameters,
    ) -> None:
        self.tower, self.encoder, self.data, self.parameters = tower, encoder, data, parameters
        self.module = nn.ModuleDict({"tower": tower, "encoder": encoder})
        self.text = text
        if isinstance(text, ItemTexts):
            self.module["texts"] = text
        self.trained_N = torch.as_tensor(trained_N)
        self.generator = torch.Generator().manual_seed(parameters.seed)

    def text_embeddings(self) -> Tensor:
        """Text embeddings of all items as of the last refresh: [N, E]."""
        return self.text.table_NE if isinstance(self.text, ItemTexts) else self.text

    def refresh(self) -> None:
        """Bring text embeddings and neighbours up to date with the text encoder."""
        if isinstance(self.text, ItemTexts) and self.text.stale:
            self.text.refresh()
            self.tower.find_neighbours(self.text_embeddings(), self.trained_N)

    def _text_of_step(self, batch: Crops, crop: EventBatch) -> Tensor:
        """[N, E] with gradient at some of the items, unless the text encoder is frozen."""
        if not isinstance(self.text, ItemTexts):
            return self.text
        if isinstance(batch, EpochStart):
            self.refresh()
        text_NE: Tensor = self.text(self.text.sample(crop.items_BL, self.generator))
        return text_NE

    def item_vectors(self) -> Tensor:
        """The tower's vectors as they are served: [N, D]."""
        vectors_ND: Tensor = self.tower(self.text_embeddings(), self.trained_N)
        return vectors_ND

    def epoch(self, rng: np.random.Generator) -> Sequence[Crops]:
        """One crop a user."""
        length = self.parameters.train_length
        users = np.flatnonzero(self.data.train_ends_U >= 2)
        ends_U = random_crops(self.data.train_ends_U, length, rng)
        starts_U = np.maximum(ends_U - length, 0)
        batches = bucketed_batches(users, (ends_U - starts_U)[users], self.parameters.training.batch_size, rng)
        crops = [Crops(torch.as_tensor(u), torch.as_tensor(starts_U[u]), torch.as_tensor(ends_U[u])) for u in batches]
        return [EpochStart(*crops[0]), *crops[1:]]

    def size(self, batch: Crops) -> Work:
        """Next-item predictions; events of the crops."""
        lengths_B = batch.ends_B - batch.starts_B
        events = int(lengths_B.sum())
        positions = min(events - len(lengths_B), self.parameters.training.positions_per_step)
        return Work(len(lengths_B), positions, events, self.encoder.slots(lengths_B))

    def loss(self, batch: Crops, share: Share = WHOLE) -> Loss:
        """Next-item loss on a sample of positions plus the weighted matching loss."""
        keep_N = self.trained_N & (
            torch.rand(len(self.trained_N), generator=self.generator).to(self.trained_N.device)
            >= self.parameters.residual_dropout
        )
        crop = self.data.cut(batch)
        items_ND = self.tower(self._text_of_step(batch, crop), keep_N)
        next_BQ, known_BQ = sample_columns(
            crop.mask_BL[:, :-1], self.parameters.training.positions_per_step, self.generator
        )
        cut_B, ahead_B = self._cut(crop)
        lottery_BW = torch.rand(len(cut_B), self.parameters.target_window, generator=self.generator)
        all_rows, users = (int(known_BQ.sum()), int(ahead_B.sum())), share.of(len(cut_B))
        crop, next_BQ, known_BQ = crop.of(users), next_BQ[users], known_BQ[users]
        cut_B, ahead_B, lottery_BW = cut_B[users], ahead_B[users], lottery_BW[users]
        interests_BQKD = self.encoder.after(
            items_ND[crop.items_BL], crop, torch.cat([next_BQ, cut_B[:, None] - 1], dim=1)
        )
        next_item = merged_cross_entropy(
            interests_BQKD[:, :-1][known_BQ], crop.items_BL.gather(1, next_BQ + 1)[known_BQ], items_ND,
            self.encoder.scale,
        )  # fmt: skip
        window_W = torch.arange(self.parameters.target_window, device=cut_B.device)
        targets_BW = crop.items_BL.gather(1, (cut_B[:, None] + window_W).clamp_max(crop.items_BL.shape[1] - 1))
        matching = dmil_loss(
            interests_BQKD[:, -1], targets_BW, window_W < ahead_B[:, None], items_ND, self.encoder.scale,
            self.parameters.duplicate_cosine, lottery_BW,
        )  # fmt: skip
        next_item = next_item * (int(known_BQ.sum()) / max(all_rows[0], 1))
        matching = matching * (int(ahead_B.sum()) / max(all_rows[1], 1))
        total = next_item + self.parameters.matching_weight * matching
        return Loss(total, {"next_item": next_item, "matching": matching})

    def _cut(self, crop: EventBatch) -> tuple[Tensor, Tensor]:
        """A random cut a user: the column of the first target, and the number of targets W_u = min(W, ⌊n/2⌋)."""
        length_B = crop.mask_BL.sum(1)
        ahead_B = torch.clamp(length_B // 2, max=self.parameters.target_window)
        room_B = length_B - ahead_B
        before_B = (torch.rand(len(room_B), generator=self.generator).to(room_B.device) * room_B).long() + 1
        return crop.mask_BL.shape[1] - length_B + before_B, ahead_B

    @torch.inference_mode()
    def lift_untrained(self, amount: float) -> None:
        """Lean never-trained items towards the mean interest after everybody's training events, by so much."""
        ranker = LightweightEncoderRanker(self.encoder, self.item_vectors(), self.data.recommendable_N)
        users = torch.from_numpy(np.flatnonzero(self.data.train_ends_U))
        ends = torch.from_numpy(self.data.train_ends_U)[users]
        total_D = torch.zeros(self.tower.config.dim, dtype=torch.float64)
        order = ends.argsort(stable=True)
        for part in torch.split(order, CHUNK):
            interests_BKD = ranker.interest_vectors(self.data.events, users[part], ends[part])
            total_D += interests_BKD.double().sum((0, 1))
        self.tower.lift_D.copy_(amount * nn.functional.normalize(total_D, dim=0))

    def validate(self) -> dict[str, float]:
        """Full ranking of the validation events by the merge of the coarse interests."""
        self.refresh()
        ranker = LightweightEncoderRanker(self.encoder, self.item_vectors(), self.data.recommendable_N)
        return self.data.validate(ranker)
