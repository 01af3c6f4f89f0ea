"""Training of GemiRec's posterior (MIPDM) and retrieval head (MIRM), one after the other.

Both rest on frozen parts: item vectors, the dictionary's cells, and the LLM recommender, whose next-item predictions
are the user context. Both are trained at every recent position by teacher forcing: the posterior on the next item's
cell, the head on the next item among the items of its cell. The sum of the two losses is the exact negative
log-likelihood of the next item over the catalogue. In the variant `mixture` the head learns the next item among all
items, for a share of the positions under an interest drawn from the posterior, as it will be at serving.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from prismrec.metrics.calibration import calibration_error, log_likelihood, shown_cells
from prismrec.models.cells import CellRanker
from prismrec.models.events import EventBatch
from prismrec.models.gemirec import GemiRecRanker
from prismrec.parameters.training import TrainingParameters
from prismrec.retrieval.chunks import MOST_USERS, chunk_size
from prismrec.training.loop import WHOLE, Loss, Share, part_of_mean
from prismrec.training.sequences import Crops, Places, TrainingData, bucketed_batches, padded, places, random_crops
from prismrec.training.speed import Work


class Positions(NamedTuple):
    """Rows of a batch with a known next item."""

    recent: EventBatch
    context_BLD: Tensor  # the recommender's next-item predictions
    rows: Places
    targets_P: Tensor  # item indices
    all_rows: int  # of the whole batch
    draws_PX: Tensor  # uniform random numbers, as many a row as were asked for


class _GemiRecTask:
    """What posterior and retrieval training share: crops, the frozen recommender, sampled positions.

    Both begin at the recommender's own prediction, a model by itself, so what training makes worse is not kept.

    Args:
        part: of a refresh: the share of an epoch's batches that it trains on, each user's newest window; None: all of
            them, a random window a user.
    """

    start_competes = True

    def __init__(
        self,
        ranker: GemiRecRanker,
        data: TrainingData,
        training: TrainingParameters,
        seed: int,
        part: float | None = None,
    ) -> None:
        self.ranker, self.data, self.training, self.part = ranker, data, training, part
        self.table, self.items_ND, self.vectors_ND = ranker.table, ranker.context.items_ND, ranker.context.vectors_ND
        ranker.context.recommender.requires_grad_(False)  # frozen, for whoever counts gradients too
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(self, rng: np.random.Generator) -> Sequence[Crops]:
        """One recent window a user, with the next event known for all of its positions but the last."""
        length = self.ranker.context.recommender.config.recent_length
        users = np.flatnonzero(self.data.train_ends_U >= 2)
        newest = self.part is not None
        ends_U = self.data.train_ends_U if newest else random_crops(self.data.train_ends_U, length, rng)
        lengths_U = np.minimum(ends_U, length)
        batches = bucketed_batches(users, lengths_U[users], self.training.batch_size, rng)
        if self.part is not None:
            batches = batches[: max(1, round(self.part * len(batches)))]
        return [
            Crops(torch.as_tensor(u), torch.as_tensor(ends_U[u] - lengths_U[u]), torch.as_tensor(ends_U[u]))
            for u in batches
        ]

    def size(self, batch: Crops) -> Work:
        """Predictions at recent positions; recent events."""
        lengths_B = batch.ends_B - batch.starts_B
        events = int(lengths_B.sum())
        positions = min(events - len(lengths_B), self.training.positions_per_step)
        return Work(len(lengths_B), positions, events, padded(lengths_B))

    def positions(self, batch: Crops, share: Share = WHOLE, draws: int = 0) -> Positions:
        """The frozen recommender's predictions, and a sample of positions with their next items."""
        users = share.of(len(batch.users_B))
        rows = places(batch.ends_B - batch.starts_B, newest=2)
        targets_P = rows.take(self.data.cut(batch).items_BL, ahead=1)
        known_P = self.table.recommendable_N[targets_P]
        rows = Places(rows.users_P[known_P], rows.back_P[known_P])
        rows = rows.sample(self.training.positions_per_step, self.generator)
        draws_PX = torch.rand(len(rows.users_P), draws, generator=self.generator).to(rows.users_P.device)
        draws_PX = draws_PX[(rows.users_P >= users.start) & (rows.users_P < users.stop)]
        all_rows, rows, batch = len(rows.users_P), rows.of(users), batch.of(users)
        with torch.no_grad():
            recent, refined = self.ranker.context.state(self.data.training_events, batch.users_B, batch.ends_B)
        targets_P = rows.take(recent.items_BL, ahead=1)
        return Positions(recent, refined.next_BLD, rows, targets_P, all_rows, draws_PX)

    def validate(self) -> dict[str, float]:
        """Full ranking by log P(m_i | u) + log P(i | u, m_i)."""
        return self.data.validate(self.ranker)


class PosteriorTask(_GemiRecTask):
    """Cross-entropy of the cells of the next items at every recent position.

    Args:
        horizon: H; the target is the mean over the cells of the next H items, as far as the window goes.
        part: see `_GemiRecTask`.
    """

    name = "posterior"

    def __init__(
        self,
        ranker: GemiRecRanker,
        data: TrainingData,
        training: TrainingParameters,
        seed: int,
        horizon: int = 1,
        part: float | None = None,
    ) -> None:
        super().__init__(ranker, data, training, seed, part)
        self.module = self.posterior = ranker.posterior
        self.horizon = horizon

    def loss(self, batch: Crops, share: Share = WHOLE) -> Loss:
        """Exact joint negative log-likelihood of the cells; the mean over a position's targets, then over positions."""
        chosen = self.positions(batch, share)
        states = self.posterior(chosen.recent, chosen.context_BLD, self.vectors_ND, self.table.cells_N)
        with torch.no_grad():
            prior_PG = self.ranker.prior(chosen.rows.take(chosen.context_BLD))
        cells_PT, share_PT = self.targets(chosen)
        log_PT = self.posterior.log_probabilities_of(chosen.rows.take(states), prior_PG, cells_PT)
        loss = -(log_PT * share_PT).sum(1).mean()
        return Loss(part_of_mean(loss, len(cells_PT), chosen.all_rows), {})

    def validate(self) -> dict[str, float]:
        """As it will be served: at the temperature that fits these weights; training goes on at its own."""
        training = self.posterior.config
        fit_temperature(self.ranker, self.data)
        figures = super().validate()
        self.posterior.config = training
        return figures

    def targets(self, chosen: Positions) -> tuple[Tensor, Tensor]:
        """Cells of each position's next H items [P, H], and their shares, which sum to 1.

        Items that may not be recommended, and events beyond the window, are no targets; the first item always is one.
        """
        rows, items_BL = chosen.rows, chosen.recent.items_BL
        ahead_H = torch.arange(1, self.horizon + 1, device=items_BL.device)
        back_PH = rows.back_P[:, None] - ahead_H
        items_PH = items_BL[rows.users_P[:, None], items_BL.shape[1] - back_PH.clamp_min(1)]
        known_PH = (back_PH >= 1) & self.table.recommendable_N[items_PH]
        cells_PH = self.table.cells_N[items_PH].where(known_PH, self.table.cells_N[items_PH[:, :1]])
        return cells_PH, known_PH / known_PH.sum(1, keepdim=True)


TEMPERATURES = (0.25, 4.0)  # between which the fitted one lies
PRECISION = 3e-5  # relative


@torch.inference_mode()
def fit_temperature(ranker: GemiRecRanker, data: TrainingData) -> float:
    """Set the posterior's temperature to that of the highest likelihood of the validation targets, and return it.

    Temperature scaling (Guo et al., 2017): what was trained on events is too sure of events that it has not seen. The
    likelihood has one maximum in 1 / temperature (it is concave), which Brent's method finds.
    """
    posterior, cases = ranker.posterior, data.validation
    states, priors = [], []
    for start in range(0, len(cases.users_C), MOST_USERS):
        part = slice(start, start + MOST_USERS)
        state_BH, prior_BG = ranker.states(data.events, cases.users_C[part], cases.starts_C[part])
        states.append(state_BH)
        priors.append(prior_BG)
    states_CH = torch.cat(states)
    prior_CG = torch.cat([prior for prior in priors if prior is not None]) if posterior.config.prior else None
    cells_CT = ranker.table.cells_N[cases.targets_CT]
    known_CT = cases.mask_CT & ranker.table.recommendable_N[cases.targets_CT]
    first_C1 = known_CT.long().argmax(1, keepdim=True)
    cells_CT = cells_CT.where(known_CT, cells_CT.gather(1, first_C1))

    def loss(log_temperature: float) -> float:
        posterior.config = replace(posterior.config, temperature=math.exp(log_temperature))
        log_CT = posterior.log_probabilities_of(states_CH, prior_CG, cells_CT).where(known_CT, 0.0)
        return -float(log_CT.double().sum())

    ends = tuple(math.log(end) for end in TEMPERATURES)
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": PRECISION})
    posterior.config = replace(posterior.config, temperature=round(math.exp(found.x), 4))
    return posterior.config.temperature


@torch.inference_mode()
def cell_figures(ranker: CellRanker, data: TrainingData) -> dict[str, float]:
    """How good P(m | u) is on the validation targets: log-likelihood of their cells, and whether it means what it says.

    Returns:
        `log_likelihood`: mean of the users', nats. `calibration_error`: of the likeliest cell. Empty without a target.
    """
    cases, table = data.validation, ranker.table
    known_CT = cases.mask_CT & table.recommendable_N[cases.targets_CT]
    asked = torch.nonzero(known_CT.any(1)).flatten()
    size = chunk_size(len(table.cells_N), ranker.held)
    found: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(asked), size):
        some = asked[start : start + size]
        log_BG = ranker.cells(data.events, cases.users_C[some], cases.starts_C[some])
        on_targets = log_BG, table.cells_N[cases.targets_CT[some]], known_CT[some]
        found.append((log_likelihood(*on_targets), *(each.ravel() for each in shown_cells(*on_targets, shown=1))))
    if not found:
        return {}
    likelihood_C, said_C, came_C = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return {"log_likelihood": float(likelihood_C.mean()), "calibration_error": calibration_error(said_C, came_C)}


class RetrievalTask(_GemiRecTask):
    """Cross-entropy of the next item at every recent position: among its cell's items, or in `mixture` among all.

    Args:
        posterior_share: share of the positions that `mixture` conditions on an interest drawn from the posterior, not
            on the target's own.
        part: see `_GemiRecTask`.
    """

    name = "retrieval"

    def __init__(
        self,
        ranker: GemiRecRanker,
        data: TrainingData,
        training: TrainingParameters,
        seed: int,
        posterior_share: float = 0.0,
        part: float | None = None,
    ) -> None:
        super().__init__(ranker, data, training, seed, part)
        self.module = self.head = ranker.head
        self.posterior_share = posterior_share

    def loss(self, batch: Crops, share: Share = WHOLE) -> Loss:
        """Negative log-likelihood of the next items under the interests conditioned on."""
        mixture = self.head.config.variant == "mixture"
        chosen = self.positions(batch, share, draws=2 if mixture else 0)
        user_PD = chosen.rows.take(chosen.context_BLD)
        cells_GE = self.ranker.posterior.cells_GE
        if mixture:
            cells_PE = cells_GE[self.conditions(chosen)]
            loss = self.head.catalogue_loss(
                user_PD, chosen.targets_P, cells_PE, self.items_ND, self.table.recommendable_N
            )
        else:
            loss = self.head.in_cell_loss(user_PD, chosen.targets_P, cells_GE, self.items_ND, self.table)
        return Loss(part_of_mean(loss, len(chosen.targets_P), chosen.all_rows), {})

    @torch.no_grad()
    def conditions(self, chosen: Positions) -> Tensor:
        """The cell each position is conditioned on: the target's, or for a share of them one of the posterior's."""
        posterior, rows = self.ranker.posterior, chosen.rows
        states = rows.take(posterior(chosen.recent, chosen.context_BLD, self.vectors_ND, self.table.cells_N))
        log_PG = posterior.log_probabilities(states, self.ranker.prior(rows.take(chosen.context_BLD)))
        below_PG = log_PG.exp().cumsum(1)
        drawn_P1 = torch.searchsorted(below_PG, chosen.draws_PX[:, 1:] * below_PG[:, -1:], right=True)
        drawn_P = drawn_P1[:, 0].clamp_max(log_PG.shape[1] - 1)
        from_posterior_P = chosen.draws_PX[:, 0] < self.posterior_share
        return torch.where(from_posterior_P, drawn_P, self.table.cells_N[chosen.targets_P])
