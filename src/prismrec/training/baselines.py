"""Training of the baselines SASRec and ComiRec-SA: the same loop, crops, batches and budget for both.

Every position of a crop that has a next event is a training case, at most `positions_per_step` of them a step.
"Full" is a softmax over the catalogue; "sampled" one over negatives drawn by popularity for the whole step, whose
logits are corrected by the log of how often they are drawn (logQ), for catalogues too large for the full one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prismrec.models.baselines import ComiRecRanker, SASRecRanker
from prismrec.models.comirec import ComiRec
from prismrec.models.rankers import Ranker
from prismrec.models.sasrec import SASRec
from prismrec.parameters.evaluation import BaselineParameters
from prismrec.training.loop import WHOLE, Loss, Share, part_of_mean
from prismrec.training.losses import catalogue_cross_entropy, sample_columns, sampled_cross_entropy
from prismrec.training.sequences import Crops, TrainingData, bucketed_batches, padded, places, random_crops
from prismrec.training.speed import Work


class BaselineTask(ABC):
    """What the two share: crops of the events, and the loss over a step's predictions.

    Args:
        counts_N: training events of every item, to draw negatives by.
    """

    name: str
    start_competes = False

    def __init__(
        self,
        model: SASRec | ComiRec,
        data: TrainingData,
        counts_N: np.ndarray,
        parameters: BaselineParameters,
        seed: int,
    ) -> None:
        self.module, self.data, self.parameters = model, data, parameters
        self.generator = torch.Generator().manual_seed(seed)
        self.draw_N = torch.as_tensor(counts_N).double().clamp_min(0.5).pow(parameters.negative_exponent)

    def epoch(self, rng: np.random.Generator) -> Sequence[Crops]:
        """One crop a user with two events or more."""
        length = self.parameters.length + 1  # the last event is a target only
        users = np.flatnonzero(self.data.train_ends_U >= 2)
        ends_U = random_crops(self.data.train_ends_U, length, rng)
        starts_U = np.maximum(ends_U - length, 0)
        batches = bucketed_batches(users, (ends_U - starts_U)[users], self.parameters.training.batch_size, rng)
        return [Crops(torch.as_tensor(u), torch.as_tensor(starts_U[u]), torch.as_tensor(ends_U[u])) for u in batches]

    def size(self, batch: Crops) -> Work:
        """Next-item predictions; events but the last."""
        read_B = batch.ends_B - batch.starts_B - 1
        events = int(read_B.sum())
        return Work(len(read_B), min(events, self.parameters.training.positions_per_step), events, padded(read_B))

    def _nearest(self, vectors_PKD: Tensor, targets_P: Tensor, items_ND: Tensor) -> Tensor:
        """The vector of each row that is nearest to its target: [P, D]."""
        if vectors_PKD.shape[1] == 1:
            return vectors_PKD[:, 0]
        with torch.no_grad():
            best_P = (vectors_PKD * items_ND[targets_P][:, None]).sum(-1).argmax(1)
        return vectors_PKD[torch.arange(len(best_P), device=best_P.device), best_P]

    def _cross_entropy(
        self, vectors_PKD: Tensor, targets_P: Tensor, items_ND: Tensor, scale: Tensor, all_rows: int
    ) -> Loss:
        """The rows' part of the mean over all rows of the batch."""
        vectors_PD = self._nearest(vectors_PKD, targets_P, items_ND)
        if self.parameters.negatives == 0:
            loss = catalogue_cross_entropy(vectors_PD, targets_P, items_ND, scale)
        else:
            loss = sampled_cross_entropy(
                vectors_PD, targets_P, items_ND, scale, self.draw_N, self.parameters.negatives, self.generator
            )
        return Loss(part_of_mean(loss, len(targets_P), all_rows), {})

    @abstractmethod
    def ranker(self) -> Ranker:
        """The model ready to rank."""

    def validate(self) -> dict[str, float]:
        """Full ranking of the validation events."""
        return self.data.validate(self.ranker())


class SASRecTask(BaselineTask):
    """One vector after every event of a crop predicts the next."""

    name = "SASRec"
    module: SASRec

    def loss(self, batch: Crops, share: Share = WHOLE) -> Loss:
        """Cross-entropy of the next event after every event of the crop."""
        users = share.of(len(batch.users_B))
        limit = self.parameters.training.positions_per_step
        predicted = places(batch.ends_B - batch.starts_B, newest=2).sample(limit, self.generator)
        all_rows, predicted = len(predicted.users_P), predicted.of(users)
        crop = self.data.cut(batch.of(users))
        items_ND = self.module.items()
        states_BLD = self.module(items_ND[crop.items_BL[:, :-1]], crop.mask_BL[:, :-1])
        targets_P = predicted.take(crop.items_BL, ahead=1)
        vectors_PKD = states_BLD[predicted.users_P, crop.items_BL.shape[1] - predicted.back_P][:, None]
        return self._cross_entropy(vectors_PKD, targets_P, items_ND, self.module.scale, all_rows)

    def ranker(self) -> Ranker:
        """Cosine to the one vector."""
        return SASRecRanker(self.module)


class ComiRecTask(BaselineTask):
    """The interest nearest to the target, after a sample of the events of a crop, predicts the next."""

    name = "ComiRec-SA"
    module: ComiRec

    def loss(self, batch: Crops, share: Share = WHOLE) -> Loss:
        """Cross-entropy of the next event under the nearest interest."""
        users, crop = share.of(len(batch.users_B)), self.data.cut(batch)
        items_ND = self.module.items()
        limit = self.parameters.training.positions_per_step
        columns_BQ, known_BQ = sample_columns(crop.mask_BL[:, :-1], limit, self.generator)
        all_rows, columns_BQ, known_BQ = int(known_BQ.sum()), columns_BQ[users], known_BQ[users]
        crop = crop.of(users)
        interests = self.module.after(items_ND[crop.items_BL[:, :-1]], crop.mask_BL[:, :-1], columns_BQ)
        targets_P = crop.items_BL.gather(1, columns_BQ + 1)[known_BQ]
        return self._cross_entropy(interests[known_BQ], targets_P, items_ND, self.module.scale, all_rows)

    def ranker(self) -> Ranker:
        """Largest cosine over the interests."""
        return ComiRecRanker(self.module)
