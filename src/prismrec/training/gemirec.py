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
from prismrec.models.rankers import GemiRecRanker
from prismrec.parameters.training import TrainingParameters
from prismrec.training.loop import Loss
from prismrec.training.losses import sample_rows
from prismrec.training.sequences import Crops, TrainingData, bucketed_batches, random_crops


class _Positions(NamedTuple):
    """Rows of a batch with a known next item."""

    recent: EventBatch
    context_BLD: Tensor  # the recommender's next-item predictions
    rows_P2: Tensor  # (user, column) of each row
    targets_P: Tensor  # item indices


class _GemiRecTask:
    """What posterior and retrieval training share: crops, the frozen recommender, sampled positions."""

    def __init__(self, ranker: GemiRecRanker, data: TrainingData, training: TrainingParameters, seed: int) -> None:
        self.ranker, self.data, self.training = ranker, data, training
        self.table, self.items_ND = ranker.table, ranker.hymirec.items_ND
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(self, rng: np.random.Generator) -> Sequence[Crops]:
        """One recent window a user, with the next event known for all of its positions but the last."""
        length = self.ranker.hymirec.recommender.config.recent_length
        users = np.flatnonzero(self.data.train_ends_U >= 2)
        ends_U = random_crops(self.data.train_ends_U, length, rng)
        lengths_U = np.minimum(ends_U, length)
        return [
            Crops(torch.as_tensor(u), torch.as_tensor(ends_U[u] - lengths_U[u]), torch.as_tensor(ends_U[u]))
            for u in bucketed_batches(users, lengths_U[users], self.training.batch_size, rng)
        ]

    def positions(self, batch: Crops) -> _Positions:
        """The frozen recommender's predictions, and a sample of positions with their next items."""
        with torch.no_grad():
            recent, refined = self.ranker.hymirec.state(self.data.training_events, batch.users_B, batch.ends_B)
        rows = recent.mask_BL[:, :-1].nonzero()
        targets_P = recent.items_BL[rows[:, 0], rows[:, 1] + 1]
        known = torch.nonzero(self.table.recommendable_N[targets_P]).flatten()
        kept = sample_rows(known, self.training.positions_per_step, self.generator)
        return _Positions(recent, refined.next_BLD, rows[kept], targets_P[kept])

    def validate(self) -> dict[str, float]:
        """Full ranking by log P(m_i | u) + log P(i | u, m_i)."""
        return self.data.validate(self.ranker)


class PosteriorTask(_GemiRecTask):
    """Cross-entropy of the next item's cell at every recent position."""

    name = "posterior"

    def __init__(self, ranker: GemiRecRanker, data: TrainingData, training: TrainingParameters, seed: int) -> None:
        super().__init__(ranker, data, training, seed)
        self.module = self.posterior = ranker.posterior

    def loss(self, batch: Crops) -> Loss:
        """Exact joint negative log-likelihood of the cells."""
        chosen = self.positions(batch)
        states = self.posterior(chosen.recent, chosen.context_BLD, self.items_ND, self.table.cells_N)
        log_PG = self.posterior.log_probabilities(states[chosen.rows_P2[:, 0], chosen.rows_P2[:, 1]])
        return Loss(F.nll_loss(log_PG, self.table.cells_N[chosen.targets_P]), {})


class RetrievalTask(_GemiRecTask):
    """Cross-entropy of the next item among the items of its cell, at every recent position."""

    name = "retrieval"

    def __init__(self, ranker: GemiRecRanker, data: TrainingData, training: TrainingParameters, seed: int) -> None:
        super().__init__(ranker, data, training, seed)
        self.module = self.head = ranker.head

    def loss(self, batch: Crops) -> Loss:
        """In-cell negative log-likelihood."""
        chosen = self.positions(batch)
        user_PD = chosen.context_BLD[chosen.rows_P2[:, 0], chosen.rows_P2[:, 1]]
        cells_GE = self.ranker.posterior.cells_GE
        loss = self.head.in_cell_loss(user_PD, chosen.targets_P, cells_GE, self.items_ND, self.table)
        return Loss(loss, {})
