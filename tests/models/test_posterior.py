"""Posterior over cells: a proper distribution, the product of its conditionals, causal."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.small import DIM, NUM_ITEMS, event_table, item_vectors, randomise
from prismrec.models import load_model
from prismrec.models.events import EventBatch
from prismrec.models.posterior import Posterior, PosteriorConfig

HIDDEN = 16
CONFIG = PosteriorConfig(DIM, 6, (3, 4), HIDDEN, layers=2, heads=2, dropout=0.3, dictionary="v1")


def posterior(sizes: tuple[int, ...], occupied: torch.Tensor, seed: int = 0) -> Posterior:
    torch.manual_seed(seed)
    cells = torch.randn(math.prod(sizes), CONFIG.cell_dim)
    made = Posterior(replace(CONFIG, sizes=sizes), cells, occupied)
    randomise(made, seed)
    return made


def by_hand(made: Posterior, state_H: torch.Tensor) -> torch.Tensor:
    """∏_c P(m_c | m_<c, u) by recursion over codes; a softmax over the codes that lead to some item."""
    sizes, occupied = made.config.sizes, made.occupied_G
    joint = torch.zeros(len(occupied), dtype=torch.float64)

    def descend(prefix: tuple[int, ...], probability: float) -> None:
        level = len(prefix)
        if level == len(sizes):
            index = 0
            for code, size in zip(prefix, sizes, strict=True):
                index = index * size + code
            joint[index] = probability
            return
        hidden = made.level_in[level](state_H)
        for earlier, code in enumerate(prefix):
            hidden = hidden + made.chosen[earlier].weight[code]
        logits = made.level_out[level](F.gelu(hidden)).double()
        below = []
        for code in range(sizes[level]):
            index = 0
            for chosen, size in zip((*prefix, code), sizes, strict=False):
                index = index * size + chosen
            width = math.prod(sizes[level + 1 :])
            below.append(bool(occupied[index * width : (index + 1) * width].any()))
        total = sum(float(logits[code].exp()) for code in range(sizes[level]) if below[code])
        for code in range(sizes[level]):
            if below[code]:
                descend((*prefix, code), probability * float(logits[code].exp()) / total)

    descend((), 1.0)
    return joint


@st.composite
def dictionaries(draw: st.DrawFn) -> tuple[tuple[int, ...], torch.Tensor]:
    """Sizes of 1 to 3 levels, and occupied cells: any but none, often with whole prefixes empty."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    cells = math.prod(sizes)
    occupied = torch.tensor(draw(st.lists(st.booleans(), min_size=cells, max_size=cells)))
    occupied[draw(st.integers(0, cells - 1))] = True
    if draw(st.booleans()):
        first = draw(st.integers(0, sizes[0] - 1))
        empty = occupied.view(sizes[0], -1).clone()
        empty[first] = False
        occupied = empty.flatten() if empty.any() else occupied
    return sizes, occupied


@settings(max_examples=60, deadline=None)
@given(dictionaries(), st.integers(0, 10_000))
@torch.no_grad()
def test_non_empty_cells_share_all_the_probability(case: tuple[tuple[int, ...], torch.Tensor], seed: int) -> None:
    sizes, occupied = case
    made = posterior(sizes, occupied, seed)
    states = 3 * torch.randn(4, HIDDEN)
    found = made.log_probabilities(states)
    assert found.shape == (4, len(occupied))
    assert found.dtype == torch.float32
    assert torch.equal(found == -torch.inf, ~occupied.expand(4, -1)), "empty cells, and they alone, are impossible"
    assert not found.isnan().any()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
    for row in range(4):
        expected = by_hand(made, states[row])
        torch.testing.assert_close(found[row].double().exp(), expected, atol=1e-6, rtol=1e-4)


def test_gradients_are_finite_beside_empty_prefixes() -> None:
    occupied = torch.zeros(3, 4, dtype=torch.bool)
    occupied[0, 1] = occupied[2, 0] = occupied[2, 3] = True
    made = posterior((3, 4), occupied.flatten())
    states = torch.randn(5, HIDDEN, requires_grad=True)
    loss = F.nll_loss(made.log_probabilities(states), torch.tensor([1, 8, 11, 8, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(states.grad).all()
    assert states.grad.abs().max() > 0
    for level in range(2):
        for parameter in (*made.level_in[level].parameters(), *made.level_out[level].parameters()):
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().max() > 0
    assert made.chosen[0].weight.grad[2].abs().max() > 0
    # The only cell of prefix 0 is certain once the prefix is: nothing to learn below it.
    assert made.chosen[0].weight.grad[0].abs().max() < 1e-6


LENGTHS = [9, 4, 1]
ITEMS = item_vectors()
CELLS = torch.arange(NUM_ITEMS) % 12


def recent() -> EventBatch:
    ends = torch.tensor(LENGTHS)
    return event_table(LENGTHS).cut(torch.arange(3), torch.zeros_like(ends), ends)


@pytest.fixture
def made() -> Posterior:
    return posterior((3, 4), torch.ones(12, dtype=torch.bool))


@torch.no_grad()
def test_later_events_move_no_earlier_state(made: Posterior) -> None:
    """Neither a later item (with its cell), nor a later gap, nor a later prediction of the recommender."""
    batch, context = recent(), torch.randn(3, 9, DIM)
    before = made(batch, context, ITEMS, CELLS)
    assert torch.isfinite(before).all()
    for changed in range(9):
        items, gaps, other = batch.items_BL.clone(), batch.gaps_BL.clone(), context.clone()
        items[:, changed:] = (items[:, changed:] + 7) % NUM_ITEMS
        alternatives = [
            (batch._replace(items_BL=items), context),
            (batch, torch.cat([context[:, :changed], other[:, changed:] + 1], 1)),
        ]
        gaps[:, changed:] = (gaps[:, changed:] + 5) % 20
        alternatives.append((batch._replace(gaps_BL=gaps), context))
        for events, predictions in alternatives:
            after = made(events, predictions, ITEMS, CELLS)
            move = (after - before).abs().amax(-1)
            assert move[:, :changed][batch.mask_BL[:, :changed]].numel() == 0 or (
                move[:, :changed][batch.mask_BL[:, :changed]].max() < 1e-5
            )
            assert move[:, changed:][batch.mask_BL[:, changed:]].min() > 1e-4, "a state ignores its past"


@torch.no_grad()
def test_a_user_alone_gets_what_a_user_in_a_batch_gets(made: Posterior) -> None:
    batch, context = recent(), torch.randn(3, 9, DIM)
    together = made(batch, context, ITEMS, CELLS)
    for user, length in enumerate(LENGTHS):
        alone = EventBatch(*(part[user : user + 1, 9 - length :] for part in batch))
        states = made(alone, context[user : user + 1, 9 - length :], ITEMS, CELLS)
        torch.testing.assert_close(states[0], together[user, 9 - length :], atol=1e-5, rtol=1e-5)


def test_dictionary_parts_are_frozen(made: Posterior) -> None:
    names = {name for name, _ in made.named_parameters()}
    assert "cells_GE" not in names
    assert "occupied_G" not in names


def test_save_and_load(made: Posterior, tmp_path: Path) -> None:
    made.occupied_G[5] = False
    made.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Posterior)
    assert loaded.config == made.config
    assert not loaded.training
    batch, context = recent(), torch.randn(3, 9, DIM)
    with torch.no_grad():
        expected, found = (m(batch, context, ITEMS, CELLS) for m in (made, loaded))
        assert torch.equal(found, expected)
        assert torch.equal(loaded.log_probabilities(found[:, -1]), made.log_probabilities(expected[:, -1]))
        assert (loaded.log_probabilities(found[:, -1])[:, 5] == -torch.inf).all()
