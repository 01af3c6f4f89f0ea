"""What a softmax loss compares its targets with, where that is not the whole catalogue.

- *sampled*: drawn by weight for the whole step;
- *in batch*: the step's own targets, which the data themselves draw by frequency.

Either way the logit of a negative is lowered by the log of how often it is expected among them and raised by the log of
how often it is there (logQ): sums over the negatives then estimate sums over the catalogue, and the loss the full one.

Notable: negatives are distinct and their number of occurrences a weight, so that no product is computed twice. They are
those of the whole step, whichever share of it is computed.

Shapes: B users, P rows of a loss, M distinct negatives, N items, T targets of a step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Negatives(NamedTuple):
    """Distinct items that are negatives in every row of a step, unless masked there."""

    items_M: Tensor  # int64, ascending
    log_weight_M: Tensor  # occurrences over expected ones, log
    own_BM: Tensor | None = None  # True where it is one of the user's own targets, and so no negative
    users_P: Tensor | None = None  # the rows' users, where there is `own_BM`

    def of(self, users_P: Tensor) -> Negatives:
        """The same for the rows of these users."""
        return self._replace(users_P=users_P)

    def masked(self, rows: slice, targets_P: Tensor) -> Tensor:
        """[P, M] where an item is no negative of some of the rows: their own target, or another of the user's."""
        masked_PM = self.items_M == targets_P[:, None]
        if self.own_BM is not None:
            assert self.users_P is not None, "rows have users"
            masked_PM |= self.own_BM[self.users_P[rows]]
        return masked_PM


def draw_shares(counts_N: Tensor, exponent: float) -> Tensor:
    """[N] share of each item in a draw by popularity to a power; what never occurred counts as half an event."""
    weight_N = counts_N.double().clamp_min(0.5).pow(exponent)
    return (weight_N / weight_N.sum()).float()


def sampled_negatives(share_N: Tensor, number: int, generator: torch.Generator) -> Negatives:
    """So many draws with replacement.

    Args:
        share_N: each item's share in the draw; sums to 1.
        generator: on the CPU, where the draw is made.
    """
    drawn_T = torch.multinomial(share_N.cpu(), number, replacement=True, generator=generator)
    return _weighted(drawn_T.to(share_N.device), share_N)


def in_batch_negatives(targets_T: Tensor, users_T: Tensor, share_N: Tensor, users: slice) -> Negatives:
    """The targets of a step; none of a user's own is a negative of theirs.

    Args:
        targets_T: all targets of the step, with repeats.
        users_T: the user of each, 0 ≤ user < B of the whole step.
        share_N: each item's share of all targets.
        users: the users whose rows are computed; row users are counted from the first of these.
    """
    found = _weighted(targets_T, share_N)
    mine_T = (users_T >= users.start) & (users_T < users.stop)
    own_BM = torch.zeros(users.stop - users.start, len(found.items_M), dtype=torch.bool, device=targets_T.device)
    own_BM[users_T[mine_T] - users.start, torch.searchsorted(found.items_M, targets_T[mine_T])] = True
    return found._replace(own_BM=own_BM)


def _weighted(drawn_T: Tensor, share_N: Tensor) -> Negatives:
    items_M, times_M = torch.unique(drawn_T, return_counts=True)
    return Negatives(items_M, (times_M / (share_N[items_M] * len(drawn_T))).log())
