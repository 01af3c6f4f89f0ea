"""The index: exact where it says so, near enough above, the same bytes twice."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from prismrec.retrieval import index as module
from prismrec.retrieval.index import FILE, ItemIndex
from prismrec.retrieval.search import search

DIM = 16


def clustered(count: int, seed: int) -> torch.Tensor:
    """Unit vectors around thirty centres, the same ones for every seed."""
    centres = torch.randn(30, DIM, generator=torch.Generator().manual_seed(99))
    random = torch.Generator().manual_seed(seed)
    nearest = centres[torch.randint(30, (count,), generator=random)]
    return F.normalize(nearest + 0.4 * torch.randn(count, DIM, generator=random), dim=1)


@pytest.fixture
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ITEMS", 1_000)


def exact(interests_KD: torch.Tensor, items_ND: torch.Tensor, k: int, shown_N: torch.Tensor) -> list[int]:
    return search(interests_KD[None], items_ND, k, recommendable_N=shown_N).items_Bk[0].tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), interests=st.integers(1, 5), k=st.integers(1, 40), hidden=st.integers(0, 30))
def test_small_catalogues_are_searched_exactly(seed: int, interests: int, k: int, hidden: int) -> None:
    items_ND, random = clustered(60, seed), torch.Generator().manual_seed(seed)
    items_ND[10:20] = items_ND[:10]  # equal scores
    recommendable_N = torch.rand(60, generator=random) < 0.8
    rows = torch.randint(60, (hidden,), generator=random)
    asked_KD = clustered(interests, seed + 1)
    found = ItemIndex.build(items_ND, recommendable_N).search(asked_KD, k, rows)
    shown_N = recommendable_N.clone()
    shown_N[rows] = False
    expected = [row for row in exact(asked_KD, items_ND, k, shown_N) if row >= 0]
    scores_N = (asked_KD @ items_ND.T).amax(0)
    assert torch.allclose(scores_N[found.rows_k], found.scores_k, atol=1e-6)
    assert torch.allclose(scores_N[expected], found.scores_k, atol=1e-6)
    assert shown_N[found.rows_k].all()
    assert len(found.rows_k) == len(expected)


@pytest.mark.usefixtures("small_bound")
def test_cells_find_nearly_everything_and_score_it_exactly() -> None:
    items_ND, recommendable_N = clustered(6_000, 1), torch.ones(6_000, dtype=torch.bool)
    recommendable_N[::7] = False
    index = ItemIndex.build(items_ND, recommendable_N)
    assert index.cells is not None
    assert index.cells.nprobe < index.cells.nlist
    shared = 0
    for seed in range(20):
        asked_KD = clustered(4, 50 + seed)
        found = index.search(asked_KD, 50)
        shared += len(set(found.rows_k.tolist()) & set(exact(asked_KD, items_ND, 50, recommendable_N)))
        assert torch.allclose((asked_KD @ items_ND.T).amax(0)[found.rows_k], found.scores_k, atol=1e-6)
        assert (found.scores_k.diff() <= 0).all()
        assert recommendable_N[found.rows_k].all()
    assert shared >= 0.97 * 20 * 50


@pytest.mark.usefixtures("small_bound")
def test_hidden_rows_make_room_for_others() -> None:
    items_ND = clustered(3_000, 1)
    index = ItemIndex.build(items_ND, torch.ones(3_000, dtype=torch.bool))
    asked_KD = clustered(2, 7)
    first = index.search(asked_KD, 20)
    second = index.search(asked_KD, 20, first.rows_k)
    assert not set(first.rows_k.tolist()) & set(second.rows_k.tolist())
    assert len(second.rows_k) == 20
    assert second.scores_k.max() <= first.scores_k.min()


@pytest.mark.usefixtures("small_bound")
def test_without_clusters_nearly_all_cells_are_read() -> None:
    items_ND = F.normalize(torch.randn(3_000, 64, generator=torch.Generator().manual_seed(1)), dim=1)
    index = ItemIndex.build(items_ND, everything := torch.ones(3_000, dtype=torch.bool))
    assert index.cells is not None
    assert index.cells.nprobe > 0.8 * index.cells.nlist
    asked_KD = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    found = index.search(asked_KD, 30).rows_k.tolist()
    assert len(set(found) & set(exact(asked_KD, items_ND, 30, everything))) >= 29


@pytest.mark.usefixtures("small_bound")
def test_the_same_bytes_twice_and_the_same_answers_after_loading(tmp_path: Path) -> None:
    items_ND, everything = clustered(3_000, 1), torch.ones(3_000, dtype=torch.bool)
    for name in ("first", "second"):
        ItemIndex.build(items_ND, everything, seed=3).save(tmp_path / name)
    assert (tmp_path / "first" / FILE).read_bytes() == (tmp_path / "second" / FILE).read_bytes()
    asked_KD = clustered(4, 5)
    built = ItemIndex.build(items_ND, everything, seed=3).search(asked_KD, 20)
    loaded = ItemIndex.load(tmp_path / "first", items_ND, everything).search(asked_KD, 20)
    assert built.rows_k.equal(loaded.rows_k)
    assert built.scores_k.equal(loaded.scores_k)
    with pytest.raises(AssertionError, match="another item table"):
        ItemIndex.load(tmp_path / "first", items_ND, everything & (torch.arange(3_000) > 0))
