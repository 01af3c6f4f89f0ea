"""Training of GemiRec's posterior (MIPDM) and retrieval head (MIRM), one after the other.

Both rest on frozen parts: item vectors, the dictionary's cells, and the LLM recommender, whose next-item predictions
are the user context. Both are trained at every recent position by teacher forcing: the posterior on the next item's
cell, the head on the next item among the items of its cell. The sum of the two losses is the exact negative
log-likelihood of the next item over the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.models.events import EventBatch
from prismrec.models.gemirec import GemiRecRanker
from prismrec.parameters.training import TrainingParameters
from prismrec.training.loop import WHOLE, Loss, Share, part_of_mean
from prismrec.training.sequences import Crops, Places, TrainingData, bucketed_batches, padded, places, random_crops
from prismrec.training.speed import Work


class _Positions(NamedTuple):
    """Rows of a batch with a known next item."""

    recent: EventBatch
    context_BLD: Tensor  # the recommender's next-item predictions
    rows: Places
    targets_P: Tensor  # item indices
    all_rows: int  # of the whole batch


class _GemiRecTask:
    """What posterior and retrieval training share: crops, the frozen recommender, sampled positions."""

    def __init__(self, ranker: GemiRecRanker, data: TrainingData, training: TrainingParameters, seed: int) -> None:
        self.ranker, self.data, self.training = ranker, data, training
        self.table, self.items_ND = ranker.table, ranker.context.items_ND
        ranker.context.recommender.requires_grad_(False)  # frozen, for whoever counts gradients too
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(self, rng: np.random.Generator) -> Sequence[Crops]:
        """One recent window a user, with the next event known for all of its positions but the last."""
        length = self.ranker.context.recommender.config.recent_length
        users = np.flatnonzero(self.data.train_ends_U >= 2)
        ends_U = random_crops(self.data.train_ends_U, length, rng)
        lengths_U = np.minimum(ends_U, length)
        return [
            Crops(torch.as_tensor(u), torch.as_tensor(ends_U[u] - lengths_U[u]), torch.as_tensor(ends_U[u]))
            for u in bucketed_batches(users, lengths_U[users], self.training.batch_size, rng)
        ]

    def size(self, batch: Crops) -> Work:
        """Predictions at recent positions; recent events."""
        lengths_B = batch.ends_B - batch.starts_B
        events = int(lengths_B.sum())
        positions = min(events - len(lengths_B), self.training.positions_per_step)
        return Work(len(lengths_B), positions, events, padded(lengths_B))

    def positions(self, batch: Crops, share: Share = WHOLE) -> _Positions:
        """The frozen recommender's predictions, and a sample of positions with their next items."""
        users = share.of(len(batch.users_B))
        rows = places(batch.ends_B - batch.starts_B, newest=2)
        targets_P = rows.take(self.data.cut(batch).items_BL, ahead=1)
        known_P = self.table.recommendable_N[targets_P]
        rows = Places(rows.users_P[known_P], rows.back_P[known_P])
        rows = rows.sample(self.training.positions_per_step, self.generator)
        all_rows, rows, batch = len(rows.users_P), rows.of(users), batch.of(users)
        with torch.no_grad():
            recent, refined = self.ranker.context.state(self.data.training_events, batch.users_B, batch.ends_B)
        targets_P = rows.take(recent.items_BL, ahead=1)
        return _Positions(recent, refined.next_BLD, rows, targets_P, all_rows)

    def validate(self) -> dict[str, float]:
        """Full ranking by log P(m_i | u) + log P(i | u, m_i)."""
        return self.data.validate(self.ranker)


class PosteriorTask(_GemiRecTask):
    """Cross-entropy of the next item's cell at every recent position."""

    name = "posterior"

    def __init__(self, ranker: GemiRecRanker, data: TrainingData, training: TrainingParameters, seed: int) -> None:
        super().__init__(ranker, data, training, seed)
        self.module = self.posterior = ranker.posterior

    def loss(self, batch: Crops, share: Share = WHOLE) -> Loss:
        """Exact joint negative log-likelihood of the cells."""
        chosen = self.positions(batch, share)
        states = self.posterior(chosen.recent, chosen.context_BLD, self.items_ND, self.table.cells_N)
        log_PG = self.posterior.log_probabilities(chosen.rows.take(states))
        loss = F.nll_loss(log_PG, self.table.cells_N[chosen.targets_P])
        return Loss(part_of_mean(loss, len(chosen.targets_P), chosen.all_rows), {})


class RetrievalTask(_GemiRecTask):
    """Cross-entropy of the next item among the items of its cell, at every recent position."""

    name = "retrieval"

    def __init__(self, ranker: GemiRecRanker, data: TrainingData, training: TrainingParameters, seed: int) -> None:
        super().__init__(ranker, data, training, seed)
        self.module = self.head = ranker.head

    def loss(self, batch: Crops, share: Share = WHOLE) -> Loss:
        """In-cell negative log-likelihood."""
        chosen = self.positions(batch, share)
        user_PD = chosen.rows.take(chosen.context_BLD)
        cells_GE = self.ranker.posterior.cells_GE
        loss = self.head.in_cell_loss(user_PD, chosen.targets_P, cells_GE, self.items_ND, self.table)
        return Loss(part_of_mean(loss, len(chosen.targets_P), chosen.all_rows), {})
