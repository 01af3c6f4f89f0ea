"""Intra-list diversity: against every pair by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.metrics import diversity
from prismrec.metrics.diversity import category_diversity, text_diversity


def text_by_hand(row: np.ndarray, vectors: np.ndarray) -> float:
    units = [vectors[i] / np.linalg.norm(vectors[i]) for i in row if i >= 0 and vectors[i].any()]
    pairs = [1 - float(a @ b) for a, b in itertools.combinations(units, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan


def category_by_hand(row: np.ndarray, categories: np.ndarray) -> float:
    sets = [set(np.flatnonzero(categories[i])) for i in row if i >= 0 and categories[i].any()]
    pairs = [1 - len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_equal_to_every_pair_by_hand(seed: int) -> None:
    """With padding, with items of no text, and of no category."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(15, 6)).astype(np.float32) * rng.integers(0, 4, (15, 1))
    categories = rng.random((15, 5)) < 0.3
    lists = np.stack([rng.permutation(15)[:8] for _ in range(6)])
    for row, length in enumerate(rng.integers(0, 9, 6)):
        lists[row, length:] = -1
    text, category = (
        text_diversity(lists, vectors, (3, 8)),
        category_diversity(lists, sp.csr_matrix(categories), (3, 8)),
    )
    for k in (3, 8):
        expected = [text_by_hand(row[:k], vectors) for row in lists]
        np.testing.assert_allclose(text[f"diversity_text@{k}"], expected, atol=1e-5)
        expected = [category_by_hand(row[:k], categories) for row in lists]
        np.testing.assert_allclose(category[f"diversity_category@{k}"], expected, atol=1e-6)


def test_known_cases() -> None:
    """The same item text twice is no diversity, orthogonal texts are 1; one shared category of three is 2/3."""
    vectors = np.array([[2, 0], [3, 0], [0, 1]], dtype=np.float32)
    values = text_diversity(np.array([[0, 1], [0, 2]]), vectors, (2,))["diversity_text@2"]
    np.testing.assert_allclose(values, [0, 1], atol=1e-6)
    categories = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0]], dtype=bool)
    values = category_diversity(np.array([[0, 1], [0, 2]]), sp.csr_matrix(categories), (2,))["diversity_category@2"]
    np.testing.assert_allclose(values, [2 / 3, 0], atol=1e-6)


def test_a_data_set_without_categories_has_no_figure() -> None:
    for categories in (np.zeros((4, 3), dtype=bool), np.zeros((4, 0), dtype=bool)):
        values = category_diversity(np.array([[0, 1]]), sp.csr_matrix(categories), (2,))
        assert np.isnan(values["diversity_category@2"]).all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lists, vectors, categories = rng.integers(-1, 30, (50, 10)), rng.normal(size=(30, 4)), rng.random((30, 5)) < 0.4
    whole = text_diversity(lists, vectors, (5, 10)) | category_diversity(lists, sp.csr_matrix(categories), (5, 10))
    monkeypatch.setattr(diversity, "CELLS", 40)
    parts = text_diversity(lists, vectors, (5, 10)) | category_diversity(lists, sp.csr_matrix(categories), (5, 10))
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-6)


def test_categories_are_never_items_by_categories() -> None:
    """Ten million categories over a million items: one-hot, they would take ten terabytes."""
    items, names = 1_000_000, 10_000_000
    rng = np.random.default_rng(0)
    columns = rng.integers(0, names, items)
    columns[:5] = [7, 7, names - 1, 7, 3]
    categories = sp.csr_matrix((np.ones(items, bool), columns, np.arange(items + 1)), shape=(items, names))
    lists = np.concatenate([[[0, 1, 2, 3, 4, -1]], rng.integers(0, items, (200, 6))])
    values = category_diversity(lists, categories, (6,))["diversity_category@6"]
    assert values[0] == pytest.approx(7 / 10), "three of ten pairs are alike"
    assert values[1:].mean() > 0.99
