"""Linear transitions: the next item as a ridge regression on the decayed history, in closed form (our choice).

    x_s = Σ_age decay_s^age · onehot(item)      for each scale s,   x = [x_1; …; x_S]
    W   = argmin Σ ||y - Wᵀ x||² + ridge ||W||²  =  (XᵀX + ridge I)⁻¹ XᵀY

over every training position, y being the one-hot next item. It is EASE (Steck, 2019) with the order of events: where
EASE predicts an item from the set of all others, this predicts what comes next from what came before. A decay of 0
looks at the latest event alone, one near 1 at the whole history. Counted Markov transitions are the special case
without the inverse, which is what stops popular items from being counted twice.

It holds the local transitions that interests lack; HyMiRec's merge has it as one of its signals (`merge.py`), and the
evaluation shows it by itself.

Notable: only the largest weights of a row are kept, so that scoring reads a few hundred numbers an event and the
model stays small; in a large catalogue the rarest items have no row.

Shapes: B users, A ages, S scales, R = S · N rows, M kept weights a row, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.models.module import SavedModule

LINEAR_TRANSITIONS = "linear_transitions"
SMALLEST_WEIGHT = 0.01  # older events, which weigh less, are not read
OLDEST = 128  # nor events of a higher age than this


@dataclass(frozen=True)
class LinearTransitionsConfig:
    """Sizes, and the decay per event of age of every scale."""

    num_items: int
    kept: int
    decays: tuple[float, ...]


def age_weights(decay: float) -> Tensor:
    """Weights [A] of the latest event, the one before it, and so on."""
    ages = torch.arange(OLDEST)
    weights = torch.tensor(decay, dtype=torch.float64) ** ages
    return weights[weights >= SMALLEST_WEIGHT]


class LinearTransitions(SavedModule):
    """Sparse regression weights: `columns_RM` and `values_RM`, row s · N + i being item i at scale s."""

    kind: ClassVar[str] = LINEAR_TRANSITIONS
    config_class: ClassVar[type] = LinearTransitionsConfig
    config: LinearTransitionsConfig
    columns_RM: Tensor
    values_RM: Tensor

    def __init__(self, config: LinearTransitionsConfig) -> None:
        super().__init__(LinearTransitionsConfig(config.num_items, config.kept, tuple(config.decays)))
        rows = len(config.decays) * config.num_items
        self.register_buffer("columns_RM", torch.zeros(rows, config.kept, dtype=torch.int32))
        self.register_buffer("values_RM", torch.zeros(rows, config.kept, dtype=torch.float16))

    def widened(self, num_items: int) -> LinearTransitions:
        """The same transitions among more items; what was added leads nowhere."""
        config = self.config
        wide = LinearTransitions(LinearTransitionsConfig(num_items, config.kept, config.decays))
        for name in ("columns_RM", "values_RM"):
            table_SNM = getattr(self, name).view(len(config.decays), config.num_items, config.kept)
            padded_SNM = F.pad(table_SNM, (0, 0, 0, num_items - config.num_items))
            setattr(wide, name, padded_SNM.reshape(-1, config.kept))
        wide.eval()
        return wide

    def forward(self, items_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Score of every item as the next: [B, N].

        Args:
            items_BL: item indices, old to new, padded on the left.
            mask_BL: True where there is an event.
        """
        config, (batch, length) = self.config, items_BL.shape
        scores_BN = torch.zeros(batch, config.num_items, device=items_BL.device)
        newest_first_BL, known_BL = items_BL.flip(1), mask_BL.flip(1)
        for scale, decay in enumerate(config.decays):
            weight_A = age_weights(decay)[:length].float().to(items_BL.device)
            row_BA = newest_first_BL[:, : len(weight_A)] + scale * config.num_items
            weight_BA = weight_A * known_BL[:, : len(weight_A)]
            values_BAM = self.values_RM[row_BA].float() * weight_BA[..., None]
            scores_BN.scatter_add_(1, self.columns_RM[row_BA].long().flatten(1), values_BAM.flatten(1))
        return scores_BN
