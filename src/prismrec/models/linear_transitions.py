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
model stays small; in a large catalogue the rarest items have no row, and share one of zeros.

Shapes: B users, A ages, S scales, R = S · (known items + 1) rows, M kept weights a row, N items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """Sizes, and the decay per event of age of every scale.

    `num_known` items have rows of their own; None: all, and no row of zeros, as earlier releases wrote it.
    """

    num_items: int
    kept: int
    decays: tuple[float, ...]
    num_known: int | None = None


def age_weights(decay: float) -> Tensor:
    """Weights [A] of the latest event, the one before it, and so on."""
    ages = torch.arange(OLDEST)
    weights = torch.tensor(decay, dtype=torch.float64) ** ages
    return weights[weights >= SMALLEST_WEIGHT]


class LinearTransitions(SavedModule):
    """Sparse regression weights, `columns_RM` and `values_RM`, scale after scale; `place_N` holds each item's row."""

    kind: ClassVar[str] = LINEAR_TRANSITIONS
    config_class: ClassVar[type] = LinearTransitionsConfig
    config: LinearTransitionsConfig
    place_N: Tensor  # int32; `num_known` for an item without a row
    columns_RM: Tensor
    values_RM: Tensor

    def __init__(self, config: LinearTransitionsConfig) -> None:
        super().__init__(replace(config, decays=tuple(config.decays)))
        known = config.num_known
        self.rows_a_scale = config.num_items if known is None else known + 1
        if known is not None:
            self.register_buffer("place_N", torch.full((config.num_items,), known, dtype=torch.int32))
        rows = len(config.decays) * self.rows_a_scale
        self.register_buffer("columns_RM", torch.zeros(rows, config.kept, dtype=torch.int32))
        self.register_buffer("values_RM", torch.zeros(rows, config.kept, dtype=torch.float16))

    def widened(self, num_items: int) -> LinearTransitions:
        """The same transitions among more items; what was added leads nowhere."""
        if self.config.num_known is None:
            return self._with_places().widened(num_items)
        wide = LinearTransitions(replace(self.config, num_items=num_items))
        wide.place_N[: len(self.place_N)] = self.place_N
        wide.columns_RM, wide.values_RM = self.columns_RM, self.values_RM
        wide.eval()
        return wide

    def _with_places(self) -> LinearTransitions:
        """The same of an earlier release's, which has a row for every item."""
        config = self.config
        placed = LinearTransitions(replace(config, num_known=config.num_items))
        placed.place_N.copy_(torch.arange(config.num_items))
        for name in ("columns_RM", "values_RM"):
            table_SNM = getattr(self, name).view(len(config.decays), config.num_items, config.kept)
            setattr(placed, name, F.pad(table_SNM, (0, 0, 0, 1)).reshape(-1, config.kept))
        return placed

    def forward(self, items_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Score of every item as the next: [B, N].

        Args:
            items_BL: item indices, old to new, padded on the left.
            mask_BL: True where there is an event.
        """
        config, (batch, length) = self.config, items_BL.shape
        scores_BN = torch.zeros(batch, config.num_items, device=items_BL.device)
        place_BL = items_BL if config.num_known is None else self.place_N[items_BL].long()
        newest_first_BL, known_BL = place_BL.flip(1), mask_BL.flip(1)
        for scale, decay in enumerate(config.decays):
            weight_A = age_weights(decay)[:length].float().to(items_BL.device)
            row_BA = newest_first_BL[:, : len(weight_A)] + scale * self.rows_a_scale
            weight_BA = weight_A * known_BL[:, : len(weight_A)]
            values_BAM = self.values_RM[row_BA].float() * weight_BA[..., None]
            scores_BN.scatter_add_(1, self.columns_RM[row_BA].long().flatten(1), values_BAM.flatten(1))
        return scores_BN
