"""Balanced k-means: exact capacities, near-optimal assignments, planted clusters found again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from prismrec.quantization import kmeans
from prismrec.quantization.kmeans import balanced_assignment, balanced_kmeans


def unit_rows(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    points = rng.standard_normal((rows, dim)).astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def assert_balanced(labels: np.ndarray, k: int) -> None:
    counts = np.bincount(labels, minlength=k)
    assert len(counts) == k
    assert counts.min() >= len(labels) // k
    assert counts.max() <= -(-len(labels) // k)


@st.composite
def similarity_tables(draw: st.DrawFn) -> np.ndarray:
    """Any similarities: random, few distinct values (many ties), or points that all want the same cluster."""
    k = draw(st.integers(1, 12))
    n = draw(st.integers(k, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "ties", "crowd", "equal"]))
    table = {
        "random": rng.uniform(-1, 1, (n, k)),
        "ties": rng.integers(-1, 2, (n, k)).astype(float),
        "crowd": rng.uniform(-1, 0, (n, k)) + 1.5 * (np.arange(k) == 0),
        "equal": np.zeros((n, k)),
    }[kind]
    return table.astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(similarity_tables())
def test_every_cluster_holds_the_floor_or_the_ceiling(similarity_nk: np.ndarray) -> None:
    before = similarity_nk.copy()
    labels = balanced_assignment(similarity_nk)
    assert labels.dtype == np.int64
    assert_balanced(labels, similarity_nk.shape[1])
    assert np.array_equal(similarity_nk, before), "the input is not written to"


@pytest.mark.parametrize(("n", "k"), [(40, 8), (60, 4), (100, 10), (64, 64)])
def test_assignment_is_near_the_optimum(n: int, k: int) -> None:
    """Of what the optimum gains over a random balanced assignment, less than a sixth is lost."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        similarity_nk = unit_rows(rng, n, 8) @ unit_rows(rng, k, 8).T
        points = np.arange(n)
        places_nn = np.repeat(similarity_nk, n // k, axis=1)
        best = places_nn[linear_sum_assignment(-places_nn)].sum()
        random = np.mean([similarity_nk[points, rng.permutation(points % k)].sum() for _ in range(30)])
        found = similarity_nk[points, balanced_assignment(similarity_nk)].sum()
        assert found <= best + 1e-3
        assert (best - found) / (best - random) < 1 / 6


def test_points_that_fit_go_to_their_best_cluster() -> None:
    similarity_nk = np.eye(4, dtype=np.float32)[[2, 0, 1, 3, 3, 2, 0, 1]]
    assert balanced_assignment(similarity_nk).tolist() == [2, 0, 1, 3, 3, 2, 0, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 60), st.integers(0, 2**31 - 1))
def test_kmeans_is_balanced_and_unit_length(k: int, extra: int, seed: int) -> None:
    points = np.random.default_rng(seed).standard_normal((k + extra, 5)).astype(np.float32)
    result = balanced_kmeans(points, k, iterations=4, seed=seed)
    assert_balanced(result.labels_n, k)
    assert np.array_equal(result.counts_k, np.bincount(result.labels_n, minlength=k))
    assert result.counts_k.min() >= 1, "every code is used at fit"
    assert result.centroids_kD.dtype == np.float32
    for cluster in range(k):
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        total = unit[result.labels_n == cluster].astype(np.float64).sum(0)
        np.testing.assert_allclose(
            result.centroids_kD[cluster],
            total / np.linalg.norm(total),
            atol=1e-4,
            err_msg="not the mean direction",
        )


def test_duplicate_points_still_balance() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32)[:1], 20, axis=0)
    result = balanced_kmeans(points, 6, iterations=3, seed=0)
    assert_balanced(result.labels_n, 6)
    assert np.isfinite(result.centroids_kD).all()


def test_same_seed_same_clusters_and_another_seed_others() -> None:
    points = unit_rows(np.random.default_rng(0), 90, 6)
    first, again, other = (balanced_kmeans(points, 7, 5, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.centroids_kD, again.centroids_kD)
    assert np.array_equal(first.labels_n, again.labels_n)
    assert not np.array_equal(first.labels_n, other.labels_n)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = unit_rows(np.random.default_rng(1), 80, 6)
    whole = balanced_kmeans(points, 5, 4, seed=0)
    monkeypatch.setattr(kmeans, "BLOCK", 7)
    blocks = balanced_kmeans(points, 5, 4, seed=0)
    assert np.array_equal(whole.labels_n, blocks.labels_n)
    np.testing.assert_allclose(whole.centroids_kD, blocks.centroids_kD, atol=1e-6)


def test_the_bounds_hold_for_every_point_where_early_steps_see_only_some(monkeypatch: pytest.MonkeyPatch) -> None:
    points = unit_rows(np.random.default_rng(3), 203, 6)
    seen, plain = [], kmeans.balanced_assignment

    def watched(similarity_nk: np.ndarray) -> np.ndarray:
        seen.append(len(similarity_nk))
        return plain(similarity_nk)

    monkeypatch.setattr(kmeans, "balanced_assignment", watched)
    monkeypatch.setattr(kmeans, "EARLY_ROWS", 50)
    result = balanced_kmeans(points, 8, 4, seed=0)
    assert seen == [50, 50, 50, 203]
    assert len(result.labels_n) == 203
    assert_balanced(result.labels_n, 8)


def test_around_lines_a_point_and_its_opposite_are_alike() -> None:
    rng = np.random.default_rng(4)
    points = unit_rows(rng, 60, 5)
    mirrored = points * rng.choice([-1, 1], (60, 1)).astype(np.float32)
    plain, other = (balanced_kmeans(p, 6, 5, 0, lines=True) for p in (points, mirrored))
    assert np.array_equal(plain.labels_n, other.labels_n)
    np.testing.assert_allclose(np.abs((plain.centroids_kD * other.centroids_kD).sum(1)), 1, atol=1e-5)
    assert not np.array_equal(balanced_kmeans(mirrored, 6, 5, 0).labels_n, plain.labels_n)


def test_only_directions_count() -> None:
    rng = np.random.default_rng(2)
    points = unit_rows(rng, 60, 5)
    # Powers of two: scaling by them is exact.
    scaled = points * (2.0 ** rng.integers(-3, 4, (60, 1))).astype(np.float32)
    assert np.array_equal(balanced_kmeans(points, 6, 4, 0).labels_n, balanced_kmeans(scaled, 6, 4, 0).labels_n)


@pytest.mark.parametrize("seed", range(6))
def test_objective_far_above_random_balanced_clusters(seed: int) -> None:
    """The sum of cosines to the own centroid beats the best of 50 random balanced clusterings by far."""
    rng = np.random.default_rng(seed)
    points = unit_rows(rng, 120, 6)

    def objective(labels: np.ndarray) -> float:
        return float(sum(np.linalg.norm(points[labels == cluster].sum(0)) for cluster in range(8)))

    fitted = objective(balanced_kmeans(points, 8, 10, seed).labels_n)
    assert fitted > 1.5 * max(objective(rng.permutation(np.arange(120) % 8)) for _ in range(50))


@pytest.mark.parametrize("seed", range(6))
def test_planted_clusters_are_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(4), 25))
    centres = np.eye(4, 16, dtype=np.float32)
    points = centres[truth] + 0.05 * rng.standard_normal((100, 16)).astype(np.float32)
    labels = balanced_kmeans(points, 4, 20, seed).labels_n
    for cluster in range(4):
        assert len(set(truth[labels == cluster])) == 1, "a cluster mixes two planted ones"


def test_more_clusters_than_points_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="5 clusters"):
        balanced_kmeans(np.eye(4, dtype=np.float32), 5, 1, 0)
