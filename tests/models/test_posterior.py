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
from prismrec.models.posterior import Knobs, Posterior, PosteriorConfig

HIDDEN = 16
CONFIG = PosteriorConfig(DIM, 6, (3, 4), HIDDEN, layers=2, heads=2, dropout=0.3, dictionary="v1")


def posterior(sizes: tuple[int, ...], occupied: torch.Tensor, seed: int = 0, **changes: object) -> Posterior:
    torch.manual_seed(seed)
    cells = torch.randn(math.prod(sizes), CONFIG.cell_dim)
    made = Posterior(replace(CONFIG, sizes=sizes, **changes), cells, occupied)
    randomise(made, seed)
    return made


def asked(made: Posterior, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States of some rows, and what the recommender says of their cells, if the posterior wants to know."""
    states = 3 * torch.randn(rows, HIDDEN)
    prior = torch.randn(rows, len(made.occupied_G)).log_softmax(1).clamp_min(-20.0)
    return states, prior if made.config.prior else None


def by_hand(made: Posterior, state_H: torch.Tensor, prior_G: torch.Tensor | None) -> torch.Tensor:
    """∏_c P(m_c | m_<c, u) by recursion over codes; a softmax over the codes that lead to some item.

    A prior adds the weighted log of what it gives to all cells below a code.
    """
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
        cool = made.config.temperature
        below = []
        for code in range(sizes[level]):
            index = 0
            for chosen, size in zip((*prefix, code), sizes, strict=False):
                index = index * size + chosen
            width = math.prod(sizes[level + 1 :])
            below.append(bool(occupied[index * width : (index + 1) * width].any()))
            if prior_G is not None:
                mass = prior_G[index * width : (index + 1) * width].double().exp().sum().log()
                logits[code] += made.prior_weight[level] * mass
        weights = [float((logits[code] / cool).exp()) if below[code] else 0.0 for code in range(sizes[level])]
        for code in range(sizes[level]):
            if below[code]:
                descend((*prefix, code), probability * weights[code] / sum(weights))

    descend((), 1.0)
    return joint


Case = tuple[tuple[int, ...], torch.Tensor]


@st.composite
def dictionaries(draw: st.DrawFn) -> Case:
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
@given(dictionaries(), st.integers(0, 10_000), st.booleans(), st.sampled_from([0.6, 1.0, 1.7]))
@torch.no_grad()
def test_non_empty_cells_share_all_the_probability(case: Case, seed: int, prior: bool, temperature: float) -> None:
    sizes, occupied = case
    made = posterior(sizes, occupied, seed, prior=prior, temperature=temperature)
    states, prior_PG = asked(made)
    found = made.log_probabilities(states, prior_PG)
    assert found.shape == (4, len(occupied))
    assert found.dtype == torch.float32
    assert torch.equal(found == -torch.inf, ~occupied.expand(4, -1)), "empty cells, and they alone, are impossible"
    assert not found.isnan().any()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
    for row in range(4):
        expected = by_hand(made, states[row], None if prior_PG is None else prior_PG[row])
        torch.testing.assert_close(found[row].double().exp(), expected, atol=1e-6, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(dictionaries(), st.integers(0, 10_000))
@torch.no_grad()
def test_an_untrained_posterior_with_a_prior_is_the_prior(case: Case, seed: int) -> None:
    sizes, occupied = case
    torch.manual_seed(seed)
    made = Posterior(replace(CONFIG, sizes=sizes, prior=True), torch.randn(len(occupied), 6), occupied).eval()
    states, _ = asked(made)
    prior = (3 * torch.randn(4, len(occupied))).masked_fill(~occupied, -60.0).log_softmax(1)
    expected = prior.masked_fill(~occupied, -torch.inf).log_softmax(1)
    torch.testing.assert_close(made.log_probabilities(states, prior), expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(dictionaries(), st.integers(0, 10_000), st.booleans(), st.integers(1, 70))
@torch.no_grad()
def test_a_beam_finds_cells_with_their_exact_probabilities(case: Case, seed: int, prior: bool, width: int) -> None:
    """And all of them, where it is as wide as the dictionary has cells."""
    sizes, occupied = case
    made = posterior(sizes, occupied, seed, prior=prior)
    states, prior_PG = asked(made)
    exact = made.all_cells(states, prior_PG)
    cells, logs = made.beam(states, prior_PG, width)
    assert all(len(set(row)) == len(row) for row in cells.tolist()), "a cell is found once"
    torch.testing.assert_close(logs, exact.gather(1, cells), atol=1e-5, rtol=1e-5)
    assert (logs[:, :-1] >= logs[:, 1:]).all(), "best first"
    if width >= len(occupied):
        wide = posterior(sizes, occupied, seed, prior=prior, max_cells=1, beam=width)
        wide.load_state_dict(made.state_dict())
        torch.testing.assert_close(wide.log_probabilities(states, prior_PG), exact, atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(dictionaries(), st.integers(0, 10_000), st.booleans(), st.integers(1, 8), st.sampled_from([0.02, 1.0]))
@torch.no_grad()
def test_cells_that_a_beam_does_not_find_share_the_rest(
    case: Case, seed: int, prior: bool, width: int, temperature: float
) -> None:
    """All occupied cells are finite and sum to 1, even where the beam has all the probability there is."""
    sizes, occupied = case
    made = posterior(sizes, occupied, seed, prior=prior, max_cells=0, beam=width, temperature=temperature)
    states, prior_PG = asked(made)
    found = made.log_probabilities(states, prior_PG)
    cells, logs = made.beam(states, prior_PG, width)
    assert torch.equal(found == -torch.inf, ~occupied.expand(4, -1))
    torch.testing.assert_close(found.gather(1, cells), logs)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
    for row in range(4):
        lost = occupied.clone()
        lost[cells[row]] = False
        assert found[row][lost].isfinite().all()
        assert len(found[row][lost].unique()) <= 1, "equal shares"


@torch.no_grad()
def test_a_beam_of_a_few_times_their_number_finds_the_likely_cells() -> None:
    """Three levels of 12 with random weights; the recall of a beam that is too narrow is below 1."""
    made = posterior((12, 12, 12), torch.ones(1728, dtype=torch.bool))
    states, _ = asked(made, 50)
    likely = made.all_cells(states, None).topk(8, dim=1).indices
    found = {}
    for width in (2, 8, 32):
        cells = made.beam(states, None, width).cells_PW
        found[width] = float((likely[:, :, None] == cells[:, None]).any(2).float().mean())
    assert found[2] <= 0.25
    assert 0.9 < found[8] < 1.0
    assert found[32] > 0.995


@settings(max_examples=40, deadline=None)
@given(dictionaries(), st.integers(0, 10_000), st.booleans())
def test_single_cells_are_scored_exactly_whatever_the_dictionary(case: Case, seed: int, prior: bool) -> None:
    """With the values and gradients of scoring all of them."""
    sizes, occupied = case
    some = torch.nonzero(occupied).flatten()
    made, large = (posterior(sizes, occupied, seed, prior=prior, max_cells=size) for size in (10_000, 1))
    states, prior_PG = asked(made)
    cells = some[torch.randint(len(some), (4, 3))]
    results = []
    ways = (
        lambda *asked: made.all_cells(*asked[:2]).gather(1, asked[2]),
        *(m.log_probabilities_of for m in (made, large)),
    )
    for model, scored in zip((made, made, large), ways, strict=True):
        model.zero_grad()
        found = scored(states, prior_PG, cells)
        found.sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((found.detach(), grads))
    for log_PT, grads in results[1:]:
        torch.testing.assert_close(results[0][0], log_PT, atol=1e-5, rtol=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, results[0][1][name], atol=1e-4, rtol=1e-4)


LAW = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
SEEN = torch.tensor([[True, False, True, False]])


def test_knobs_at_their_defaults_change_nothing() -> None:
    torch.testing.assert_close(Knobs().turn(LAW, SEEN), LAW)


def test_knobs_by_hand() -> None:
    cooled = Knobs(temperature=2.0).turn(LAW, SEEN).exp()[0]
    roots = LAW.exp()[0].sqrt()
    torch.testing.assert_close(cooled, roots / roots.sum())
    novel = Knobs(novelty=math.log(3.0)).turn(LAW, SEEN).exp()[0]
    torch.testing.assert_close(novel, torch.tensor([0.5, 0.9, 0.2, 0.0]) / 1.6)
    with pytest.raises(AssertionError, match="above 0"):
        Knobs(temperature=0.0)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 5.0), st.floats(-5, 5), st.floats(0, 5))
def test_more_novelty_gives_new_interests_more(temperature: float, novelty: float, more: float) -> None:
    few, many = (Knobs(temperature, weight).turn(LAW, SEEN).exp() for weight in (novelty, novelty + more))
    for found in (few, many):
        torch.testing.assert_close(found.sum(1), torch.ones(1))
    assert many[~SEEN].sum() >= few[~SEEN].sum() - 1e-6


def test_gradients_are_finite_beside_empty_prefixes() -> None:
    occupied = torch.zeros(3, 4, dtype=torch.bool)
    occupied[0, 1] = occupied[2, 0] = occupied[2, 3] = True
    made = posterior((3, 4), occupied.flatten())
    states = torch.randn(5, HIDDEN, requires_grad=True)
    loss = F.nll_loss(made.log_probabilities(states, None), torch.tensor([1, 8, 11, 8, 1]))
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
        assert torch.equal(loaded.log_probabilities(found[:, -1], None), made.log_probabilities(expected[:, -1], None))
        assert (loaded.log_probabilities(found[:, -1], None)[:, 5] == -torch.inf).all()
