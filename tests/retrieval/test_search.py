"""Exact search over blocks, panels and threads, against a full sort of every user's scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prismrec.retrieval import search as module
from prismrec.retrieval import topk
from prismrec.retrieval.search import Seen, largest_products, search


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, panels, blocks and groups already at a few hundred items."""
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "PRODUCT", 4 * 64)
    monkeypatch.setattr(module, "PANEL", 256)
    for stage in (module, topk):
        monkeypatch.setattr(stage, "GROUP", 4)


def seen_of(histories: list[list[int]]) -> Seen:
    offsets = torch.tensor([0, *map(len, histories)]).cumsum(0)
    items = [item for history in histories for item in history]
    return Seen(offsets[:-1], offsets[1:], torch.tensor(items, dtype=torch.int64))


def brute_force(
    interests_UKD: Tensor, items_ND: Tensor, k: int, histories: list[list[int]], allowed_N: Tensor
) -> tuple[Tensor, Tensor]:
    """All scores at once, one stable sort; items that may not be shown are -1."""
    scores = (interests_UKD @ items_ND.T).amax(1).masked_fill(~allowed_N, -torch.inf)
    for user, history in enumerate(histories):
        scores[user, history] = -torch.inf
    values, items = (table[:, :k] for table in scores.sort(dim=1, descending=True, stable=True))
    return items.masked_fill(values == -torch.inf, -1), values


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=60, deadline=None)
@given(
    users=st.integers(1, 11),
    interests=st.integers(1, 4),
    items=st.integers(1, 700),
    k=st.integers(1, 40),
    spread=st.integers(0, 3),
    hidden=st.sampled_from([0.0, 0.3, 0.99]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31 - 1),
)
def test_lists_equal_a_full_sort_ties_included(
    users: int, interests: int, items: int, k: int, spread: int, hidden: float, threads: int, seed: int
) -> None:
    """Small whole numbers are exact in any order of summation, and tie all the time (always when spread is 0)."""
    random = torch.Generator().manual_seed(seed)
    interests_UKD = torch.randint(-spread, spread + 1, (users, interests, 3), generator=random).float()
    items_ND = torch.randint(-spread, spread + 1, (items, 3), generator=random).float()
    allowed_N = torch.rand(items, generator=random) >= hidden
    histories = [torch.randint(items, (n,), generator=random).tolist() for n in (0, 1, 2 * items, 5)]
    histories = [histories[user % 4] for user in range(users)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = search(interests_UKD, items_ND, k, seen_of(histories), allowed_N)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    items_Uk, scores_Uk = brute_force(interests_UKD, items_ND, k, histories, allowed_N)
    assert torch.equal(found.items_Bk, items_Uk)
    assert torch.equal(found.scores_Bk, scores_Uk)


@pytest.mark.parametrize("interests", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_of_real_vectors_at_the_real_block_sizes(interests: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    interests_UKD = torch.randn(130, interests, 16, generator=random, dtype=dtype)
    items_ND = torch.randn(20_000, 16, generator=random, dtype=dtype)
    histories = [torch.randint(20_000, (50,), generator=random).tolist() for _ in range(130)]
    found = search(interests_UKD, items_ND, 100, seen_of(histories))
    everything = torch.ones(20_000, dtype=torch.bool)
    items_Uk, scores_Uk = brute_force(interests_UKD.double(), items_ND.double(), 100, histories, everything)
    torch.testing.assert_close(found.scores_Bk.double(), scores_Uk, rtol=0, atol=1e-4)
    # Neighbours closer than the rounding of a sum may change places; at these sizes that is one pair in thousands.
    assert (found.items_Bk == items_Uk).double().mean() > 0.999
    for shown, history in zip(found.items_Bk.tolist(), histories, strict=True):
        assert not set(shown) & set(history)


def test_users_who_have_seen_their_best_items_get_the_next_ones() -> None:
    """The groups of seen items lose their maxima: half of a user's best 300 are hidden."""
    random = torch.Generator().manual_seed(2)
    interests_UKD = torch.randint(-9, 10, (20, 2, 8), generator=random).float()
    items_ND = torch.randint(-9, 10, (13_000, 8), generator=random).float()
    everything = torch.ones(13_000, dtype=torch.bool)
    best_Uk, _ = brute_force(interests_UKD, items_ND, 300, [[]] * 20, everything)
    histories = best_Uk[:, ::2].tolist()
    found = search(interests_UKD, items_ND, 100, seen_of(histories))
    assert torch.equal(found.items_Bk, brute_force(interests_UKD, items_ND, 100, histories, everything)[0])
    assert torch.equal(found.items_Bk, best_Uk[:, 1:200:2])


def test_histories_may_be_slices_of_an_event_table() -> None:
    """Two users' first events only: what comes after the cut is shown."""
    items_ND = torch.eye(5)
    interests_UKD = torch.tensor([[[5.0, 4.0, 3.0, 2.0, 1.0]]] * 2)
    seen = Seen(torch.tensor([0, 3]), torch.tensor([2, 4]), torch.tensor([0, 1, 2, 4, 0]))
    assert search(interests_UKD, items_ND, 3, seen).items_Bk.tolist() == [[2, 3, 4], [0, 1, 2]]


def test_without_history_or_mask() -> None:
    found = search(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), 9)
    assert found.items_Bk.tolist() == [[1, 0, 2]]
    assert found.scores_Bk.tolist() == [[4.0, 3.0, 2.0]]


def test_the_lists_do_not_depend_on_the_number_of_threads() -> None:
    random = torch.Generator().manual_seed(1)
    interests_UKD, items_ND = torch.randn(300, 3, 8, generator=random), torch.randn(999, 8, generator=random)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(search(interests_UKD, items_ND, 20))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].scores_Bk, found[1].scores_Bk)
    assert torch.equal(found[0].items_Bk, found[1].items_Bk)


@pytest.mark.parametrize(("users", "interests", "items"), [(5, 3, 1000), (128, 4, 700), (7, 1, 130), (0, 4, 50)])
def test_largest_products_are_those_of_all_interests(users: int, interests: int, items: int) -> None:
    random = torch.Generator().manual_seed(users)
    interests_UKD = torch.randn(users, interests, 16, generator=random)
    items_ND = torch.randn(items, 16, generator=random)
    expected = (interests_UKD @ items_ND.T).amax(1)
    torch.testing.assert_close(largest_products(interests_UKD, items_ND), expected)
