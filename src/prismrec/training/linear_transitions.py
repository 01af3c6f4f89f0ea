"""Fit of the linear transitions: one pass over the events, one Cholesky factorisation (our choice).

Notable: XᵀX and XᵀY are summed from sparse rows in chunks, in float32, whose rounding the ridge outweighs. Memory
grows with (scales · items)², time with its cube: of a large catalogue only the most frequent items take part.

Shapes: S scales, M items that take part, R = S · M rows, N items, P positions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from prismrec.models.linear_transitions import LinearTransitions, LinearTransitionsConfig, age_weights
from prismrec.parameters.llm_recommender import TransitionParameters

POSITIONS = 50_000  # looked at together
ABSENT = -1


class Positions:
    """Every event with an event before it: the history before it as a decayed row, and its item.

    Args:
        items: [E] all users' events, user after user.
        offsets: [U+1] where each user's events start.
        ends: [U] how many of each user's first events count.
        num_items: N.
        most: M at most; the most frequent items take part, of equals the older one.
    """

    def __init__(
        self,
        items: NDArray[np.int32],
        offsets: NDArray[np.int64],
        ends: NDArray[np.int32],
        num_items: int,
        most: int,
    ) -> None:
        lengths = ends.astype(np.int64)
        place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        event = np.repeat(offsets[:-1], lengths) + place
        counts_N = np.bincount(items[event], minlength=num_items)
        frequent = np.argsort(-counts_N, kind="stable")[:most]
        self.known_M = np.sort(frequent[counts_N[frequent] > 0])
        self.num_items, self.items = num_items, items
        self.place_N = np.full(num_items, ABSENT, np.int32)
        self.place_N[self.known_M] = np.arange(len(self.known_M), dtype=np.int32)
        self.event_P, self.before_P = event[place > 0], place[place > 0]

    def chunks(self) -> Iterator[slice]:
        """Slices of all positions."""
        for start in range(0, len(self.event_P), POSITIONS):
            yield slice(start, start + POSITIONS)

    def rows(self, chunk: slice, decay: float) -> sp.csr_matrix:
        """[P, M] Σ decay^age over the events before each position."""
        event_P, before_P = self.event_P[chunk], self.before_P[chunk]
        weight_A = age_weights(decay).numpy()
        position, age = np.nonzero(np.arange(len(weight_A)) < before_P[:, None])
        return self._matrix(event_P[position] - 1 - age, position, weight_A[age], len(event_P))

    def next_items(self, chunk: slice) -> sp.csr_matrix:
        """[P, M] one where the position's item is."""
        event_P = self.event_P[chunk]
        return self._matrix(event_P, np.arange(len(event_P)), np.ones(len(event_P)), len(event_P))

    def _matrix(
        self, events: NDArray[np.int64], rows: NDArray[np.int64], values: NDArray[np.float64], num_rows: int
    ) -> sp.csr_matrix:
        columns = self.place_N[self.items[events]]
        known = columns != ABSENT
        entries = (values[known].astype(np.float32), (rows[known], columns[known]))
        return sp.csr_matrix(entries, shape=(num_rows, len(self.known_M)))


def fit_linear_transitions(positions: Positions, parameters: TransitionParameters) -> LinearTransitions:
    """Solve the ridge regression and keep the largest weights of each row."""
    decays, known_M = tuple(parameters.decays), positions.known_M
    kept = min(parameters.kept, len(known_M))
    model = LinearTransitions(LinearTransitionsConfig(positions.num_items, kept, decays, len(known_M)))
    model.place_N.copy_(torch.from_numpy(np.where(positions.place_N == ABSENT, len(known_M), positions.place_N)))
    if not decays:
        return model.eval()
    gram_RR, cross_RM = _sums(positions, decays)
    gram_RR.diagonal().add_(parameters.ridge)
    factor_RR = torch.linalg.cholesky(gram_RR)
    del gram_RR
    weights_RM = torch.cholesky_solve(cross_RM, factor_RR)
    del factor_RR, cross_RM
    largest = weights_RM.abs().topk(kept, dim=1).indices.sort(dim=1).values
    known = torch.from_numpy(known_M)
    row_R = (torch.arange(len(decays))[:, None] * model.rows_a_scale + torch.arange(len(known))).flatten()
    model.columns_RM[row_R] = known[largest].int()
    model.values_RM[row_R] = weights_RM.gather(1, largest).half()
    return model.eval()


def _sums(positions: Positions, decays: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """XᵀX [R, R] and XᵀY [R, M] over all positions."""
    items, scales = len(positions.known_M), range(len(decays))
    gram = np.zeros((len(decays) * items, len(decays) * items), np.float32)
    cross = np.zeros((len(decays) * items, items), np.float32)
    blocks = [slice(scale * items, (scale + 1) * items) for scale in scales]
    for chunk in positions.chunks():
        x, y = [positions.rows(chunk, decay) for decay in decays], positions.next_items(chunk)
        for a in scales:
            transposed = x[a].T.tocsr()
            cross[blocks[a]] += transposed @ y
            for b in scales[a:]:
                gram[blocks[a], blocks[b]] += transposed @ x[b]
    for a in scales:
        for b in scales[:a]:
            gram[blocks[a], blocks[b]] = gram[blocks[b], blocks[a]].T
    return torch.from_numpy(gram), torch.from_numpy(cross)
