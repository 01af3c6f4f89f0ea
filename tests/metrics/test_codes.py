"""Health of discrete codes: golden values, and what a collapse looks like."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.metrics.codes import code_health, perplexity


def by_hand(counts: list[int]) -> float:
    share = [count / sum(counts) for count in counts if count]
    return math.exp(-sum(p * math.log(p) for p in share))


def test_health_counts_levels_and_cells() -> None:
    """Both levels use all of their codes, and yet a third of the cells is empty."""
    codes = np.array([[0, 0]] * 3 + [[1, 1]] * 2 + [[2, 0]] + [[0, 1]] * 4)
    report = code_health(codes, (3, 2))
    assert report["cells"] == 6
    assert report["occupied_cells"] == 4
    assert report["utilisation_joint"] == pytest.approx(4 / 6)
    assert report["utilisation_level_1"] == report["utilisation_level_2"] == 1
    assert report["dead_codes_level_1"] == report["dead_codes_level_2"] == 0
    assert report["items_per_occupied_cell"] == 2.5
    assert report["largest_cell"] == 4
    assert report["perplexity_joint"] == pytest.approx(by_hand([3, 2, 1, 4]))
    assert report["perplexity_level_1"] == pytest.approx(by_hand([7, 2, 1]))
    assert report["perplexity_level_2"] == pytest.approx(by_hand([4, 6]))


def test_collapse_shows() -> None:
    report = code_health(np.zeros((50, 2), dtype=np.uint8), (4, 5), level_name="layer")
    assert report["utilisation_joint"] == pytest.approx(1 / 20)
    assert report["perplexity_joint"] == pytest.approx(1)
    assert report["utilisation_layer_2"] == pytest.approx(1 / 5)
    assert report["dead_codes_layer_2"] == 4


def test_with_fewer_items_than_cells_all_different_codes_are_full_use() -> None:
    codes = np.stack([np.arange(10), np.arange(10)], axis=1)
    report = code_health(codes, (256, 256))
    assert report["utilisation_joint"] == 1
    assert report["perplexity_joint"] == pytest.approx(10)
    assert code_health(np.r_[codes[:5], codes[:5]], (256, 256))["utilisation_joint"] == 0.5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_perplexity_lies_between_one_and_the_codes_in_use(codes: list[int]) -> None:
    counts = np.bincount(codes)
    assert 1 - 1e-12 <= perplexity(counts) <= (counts > 0).sum() + 1e-9


def test_even_use_has_the_number_of_codes_as_perplexity() -> None:
    assert perplexity(np.array([5, 0, 5, 5, 5])) == pytest.approx(4)
