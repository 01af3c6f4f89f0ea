"""Retrieval head: with the posterior, the catalogue's probabilities sum to 1."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.small import DIM, item_vectors, randomise
from prismrec.models import load_model
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.retrieval_head import CellTable, RetrievalHead, RetrievalHeadConfig

CELL_DIM, HIDDEN = 6, 16
CONFIG = RetrievalHeadConfig(DIM, CELL_DIM, 12, dropout=0.3, num_interests=3, dictionary="v1")


def head(seed: int = 0) -> RetrievalHead:
    torch.manual_seed(seed)
    made = RetrievalHead(CONFIG)
    randomise(made, seed, spread=0.5)
    return made


def users(count: int = 3, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    """Sizes of the levels, cells of the items, recommendable items: any but none; most leave cells empty."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    items = draw(st.integers(1, 25))
    cells = draw(st.lists(st.integers(0, math.prod(sizes) - 1), min_size=items, max_size=items))
    recommendable = draw(st.lists(st.booleans(), min_size=items, max_size=items))
    recommendable[draw(st.integers(0, items - 1))] = True
    return sizes, torch.tensor(cells), torch.tensor(recommendable)


Table = tuple[tuple[int, ...], torch.Tensor, torch.Tensor]


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 10_000))
@torch.no_grad()
def test_the_catalogue_is_one_distribution(case: Table, seed: int) -> None:
    """Σ_i P(m_i | u) P(i | u, m_i) = 1, over recommendable items alone, for any dictionary and any empty cells."""
    sizes, cells_N, recommendable_N = case
    num_cells = math.prod(sizes)
    table = CellTable(cells_N, recommendable_N, num_cells)
    cells_GE = torch.randn(num_cells, CELL_DIM, generator=torch.Generator().manual_seed(seed))
    config = PosteriorConfig(DIM, CELL_DIM, sizes, HIDDEN, 1, 2, 0.0, "v1")
    posterior = randomise(Posterior(config, cells_GE, table.occupied_G), seed)
    states = 3 * torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(seed))
    cells_BG = posterior.log_probabilities(states, None)
    items_BN = head(seed).log_probabilities(users(3, seed), cells_GE, item_vectors(len(cells_N)), table)
    log_BN = cells_BG[:, cells_N] + items_BN
    assert not log_BN.isnan().any()
    assert (log_BN[:, ~recommendable_N] == -torch.inf).all()
    assert (log_BN[:, recommendable_N] > -torch.inf).all()
    torch.testing.assert_close(log_BN.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 10_000))
@torch.no_grad()
def test_every_cell_is_a_softmax_over_its_own_items(case: Table, seed: int) -> None:
    """Against a loop over cells; the in-cell softmax sums to 1 in each cell that holds an item."""
    sizes, cells_N, recommendable_N = case
    num_cells = math.prod(sizes)
    made, items_ND = head(seed), item_vectors(len(cells_N))
    cells_GE = torch.randn(num_cells, CELL_DIM, generator=torch.Generator().manual_seed(seed))
    table = CellTable(cells_N, recommendable_N, num_cells)
    found = made.log_probabilities(users(), cells_GE, items_ND, table)
    vectors_BGD = made(users(), cells_GE)
    for cell in range(num_cells):
        members = torch.nonzero((cells_N == cell) & recommendable_N).flatten()
        assert table.occupied_G[cell] == (len(members) > 0)
        if len(members):
            bucket, row = table.buckets[table.bucket_G[cell]], table.row_G[cell]
            assert bucket.items_gs[row][bucket.mask_gs[row]].tolist() == members.tolist()
            expected = (made.scale * vectors_BGD[:, cell] @ items_ND[members].T).log_softmax(-1)
            torch.testing.assert_close(found[:, members], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found[:, members].exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 10_000))
@torch.no_grad()
def test_the_loss_is_the_negative_log_probability_of_the_target(case: Table, seed: int) -> None:
    sizes, cells_N, recommendable_N = case
    num_cells = math.prod(sizes)
    made, items_ND = head(seed), item_vectors(len(cells_N))
    cells_GE = torch.randn(num_cells, CELL_DIM, generator=torch.Generator().manual_seed(seed))
    table = CellTable(cells_N, recommendable_N, num_cells)
    known = torch.nonzero(recommendable_N).flatten()
    targets = known[torch.randint(len(known), (6,), generator=torch.Generator().manual_seed(seed))]
    rows = users(6, seed)
    found = made.in_cell_loss(rows, targets, cells_GE, items_ND, table)
    log_BN = made.log_probabilities(rows, cells_GE, items_ND, table)
    torch.testing.assert_close(found, -log_BN.gather(1, targets[:, None]).mean(), atol=1e-4, rtol=1e-4)


def test_an_untrained_head_ranks_like_the_user_vector() -> None:
    made = RetrievalHead(CONFIG).eval()
    found = made(users(), torch.randn(5, CELL_DIM))
    torch.testing.assert_close(found, users()[:, None].expand(-1, 5, -1))


def test_a_trained_head_depends_on_the_interest() -> None:
    found = head()(users(), 3 * torch.randn(5, CELL_DIM, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 5))
    assert (found[:, :1] - found[:, 1:]).norm(dim=-1).min() > 0.01


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_buckets_hold_every_item_once_and_less_padding_than_items(seed: int, num_cells: int) -> None:
    random = torch.Generator().manual_seed(seed)
    cells_N = torch.randint(num_cells, (60,), generator=random).square() % num_cells
    known_N = torch.rand(60, generator=random) < 0.7
    table = CellTable(cells_N, known_N, num_cells)
    assert torch.equal(table.members_n.sort().values, known_N.nonzero()[:, 0])
    assert torch.equal(table.occupied_O.sort().values, table.occupied_G.nonzero()[:, 0])
    for bucket in table.buckets:
        assert bucket.mask_gs.sum() * 2 >= bucket.mask_gs.numel()
        own_gs = cells_N[bucket.items_gs] == bucket.cells_g[:, None]
        assert own_gs[bucket.mask_gs].all()
        assert torch.equal(bucket.penalty_g1s[:, 0] == 0, bucket.mask_gs)


def test_the_loss_trains_every_parameter() -> None:
    made, items_ND = head(), item_vectors(12)
    table = CellTable(torch.arange(12) % 3, torch.ones(12, dtype=torch.bool), 5)
    loss = made.in_cell_loss(users(6), torch.tensor([0, 4, 8, 3, 7, 11]), torch.randn(5, CELL_DIM), items_ND, table)
    loss.backward()
    for name, parameter in made.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_acts_in_training_only() -> None:
    made = head()
    cells_GE = torch.randn(5, CELL_DIM)
    assert torch.equal(made(users(), cells_GE), made(users(), cells_GE))
    made.train()
    assert not torch.equal(made(users(), cells_GE), made(users(), cells_GE))


def test_save_and_load(tmp_path: Path) -> None:
    made, cells_GE = head(), torch.randn(5, CELL_DIM)
    made.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, RetrievalHead)
    assert loaded.config == made.config
    assert torch.equal(loaded(users(), cells_GE), made(users(), cells_GE))


@pytest.mark.parametrize("scale", [50.0, -2.0])
def test_the_scale_is_positive_and_bounded(scale: float) -> None:
    made = head()
    with torch.no_grad():
        made.log_scale.fill_(scale)
    assert 0 < made.scale <= 100
