"""Transition counts against a loop over users; spectral vectors against a dense factorisation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.models.transitions import spectral_vectors, transition_counts, with_reverse

Users = list[tuple[list[int], int]]


def flat(users: Users) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    items = np.array([item for events, _ in users for item in events], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(events) for events, _ in users])])
    return items, offsets, np.array([end for _, end in users])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 6), min_size=1, max_size=9).flatmap(
            lambda events: st.tuples(st.just(events), st.integers(0, len(events)))
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 4),
)
def test_counts_are_those_of_a_loop(users: Users, max_lag: int) -> None:
    """Only training events count, only pairs of one user, each weighted 1/lag."""
    expected = np.zeros((7, 7))
    for events, end in users:
        for later in range(end):
            for earlier in range(max(0, later - max_lag), later):
                expected[events[earlier], events[later]] += 1 / (later - earlier)
    counts = transition_counts(*flat(users), 7, max_lag)
    np.testing.assert_allclose(counts.toarray(), expected, rtol=1e-12)
    np.testing.assert_allclose(with_reverse(counts).toarray(), expected + 0.5 * expected.T, rtol=1e-12)


def test_the_order_of_users_changes_no_count() -> None:
    rng = np.random.default_rng(0)
    users: Users = [(rng.integers(0, 9, 8).tolist(), 7) for _ in range(20)]
    straight = transition_counts(*flat(users), 9).toarray()
    assert np.array_equal(straight, transition_counts(*flat(users[::-1]), 9).toarray())


def random_users(num_items: int, used: int, seed: int = 0) -> Users:
    """Walks over the first `used` items in which the next item is mostly one of the next three."""
    rng = np.random.default_rng(seed)
    users: Users = []
    for _ in range(60):
        walk = [int(rng.integers(used))]
        for _ in range(9):
            walk.append(int((walk[-1] + rng.integers(1, 4)) % used))
        users.append((walk, 10))
    return users


def test_spectral_vectors_are_the_dense_factors() -> None:
    """U√s + V√s of the symmetrically normalised matrix: their products do not depend on the signs chosen."""
    counts = transition_counts(*flat(random_users(30, 30)), 30)
    matrix = with_reverse(counts).toarray()
    normalised = matrix / np.sqrt(matrix.sum(1, keepdims=True) * matrix.sum(0, keepdims=True))
    u, s, vt = np.linalg.svd(normalised)
    dense = (u[:, :6] + vt[:6].T) * np.sqrt(s[:6])
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    found = spectral_vectors(counts, 6, seed=0)
    assert s[5] - s[6] > 1e-3, "the sixth factor is well separated"
    np.testing.assert_allclose(found @ found.T, dense @ dense.T, atol=1e-4)


def test_spectral_vectors_are_deterministic_unit_rows_for_items_with_transitions() -> None:
    counts = transition_counts(*flat(random_users(40, 30)), 40)
    first, again, other = (spectral_vectors(counts, 8, seed) for seed in (0, 0, 1))
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    np.testing.assert_allclose(first, other, atol=1e-4, err_msg="signs depend on the start vector")
    np.testing.assert_allclose(np.linalg.norm(first[:30], axis=1), 1, atol=1e-5)
    assert np.array_equal(first[30:], np.zeros((10, 8)))


@pytest.mark.parametrize("dim", [4, 10, 13, 20])
def test_items_without_transitions_have_zero_rows_whatever_the_width(dim: int) -> None:
    """Also when the matrix has fewer factors than the vectors have places."""
    users: Users = [([0, 1, 2, 3, 0, 1, 2, 3], 8), ([5, 6, 7, 5, 6], 5)]
    found = spectral_vectors(transition_counts(*flat(users), 14), dim, seed=0)
    assert found.shape == (14, dim)
    untouched = [4, 8, 9, 10, 11, 12, 13]
    assert np.array_equal(found[untouched], np.zeros((7, dim)))
    np.testing.assert_allclose(np.linalg.norm(np.delete(found, untouched, axis=0), axis=1), 1, atol=1e-5)


def test_items_that_follow_each_other_lie_close() -> None:
    """Two groups that never mix: cosine near 1 within, near 0 across."""
    rng = np.random.default_rng(0)
    users: Users = [((rng.integers(0, 8, 12) + 8 * (user % 2)).tolist(), 12) for user in range(60)]
    found = spectral_vectors(transition_counts(*flat(users), 16), 2, seed=0)
    cosine = found @ found.T
    assert cosine[:8, :8].min() > 0.9
    assert np.abs(cosine[:8, 8:]).max() < 0.1
