"""Exact top-k and the mask of seen items, against naive loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.models.events import EventBatch
from prismrec.retrieval.topk import exclude, top_k


def seen_batch(histories: list[list[int]]) -> EventBatch:
    """Histories padded on the left, with whatever items in the padding."""
    width = max(map(len, histories))
    items = torch.tensor([[1] * (width - len(h)) + h for h in histories], dtype=torch.int64)
    mask = torch.tensor([[False] * (width - len(h)) + [True] * len(h) for h in histories], dtype=torch.bool)
    shape = len(histories), width
    return EventBatch(items.view(shape), *torch.zeros((2, *shape), dtype=torch.int64), mask.view(shape))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), max_size=12), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.integers(0, 2**31 - 1),
)
def test_seen_and_not_recommendable_items_score_minus_infinity(
    histories: list[list[int]], allowed: list[bool], seed: int
) -> None:
    scores = torch.randn(len(histories), 9, generator=torch.Generator().manual_seed(seed))
    before = scores.clone()
    found = exclude(scores, seen_batch(histories), torch.tensor(allowed))
    assert torch.equal(scores, before), "a new tensor, the given one is kept"
    for user, history in enumerate(histories):
        for item in range(9):
            hidden = item in history or not allowed[item]
            assert found[user, item] == (-torch.inf if hidden else before[user, item])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 6),
    st.one_of(st.integers(1, 15), st.integers(100, 900)),  # a full table, and groups of neighbours
    st.integers(1, 20),
    st.sampled_from([3, 50, 10_000]),
    st.integers(0, 2**31 - 1),
)
def test_top_k_is_a_stable_sort(rows: int, items: int, k: int, values: int, seed: int) -> None:
    """Many ties and excluded items; equal scores go to the smaller index, k is at most the catalogue."""
    scores = torch.randint(-2, values, (rows, items), generator=torch.Generator().manual_seed(seed)).float()
    scores[scores == -2] = -torch.inf
    found = top_k(scores, k)
    assert found.dtype == torch.int64
    for row in range(rows):
        naive = sorted(range(items), key=lambda item, row=row: (-float(scores[row, item]), item))[:k]
        assert found[row].tolist() == naive


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_top_k_of_distinct_scores(dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.5, -1.0, 4.0, 2.0], [9.0, 8.0, 7.0, 6.0]], dtype=dtype)
    assert top_k(scores, 2).tolist() == [[2, 3], [0, 1]]
