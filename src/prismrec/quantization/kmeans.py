"""Balanced k-means with cosine assignment (HyMiRec, part 2; the balancing method is our choice).

Every cluster holds at least ⌊n/k⌋ and at most ⌈n/k⌉ points. Plain k-means leaves some codes nearly empty and others
overfull; with exact capacity bounds every code earns its place.

Method: spherical k-means, where the assignment step is an auction. Points bid for clusters in rounds: each still
unassigned point asks for its best cluster at current prices, an overfull cluster keeps the points that would lose
most elsewhere, and its price rises for the rest. What the auction leaves open after a bounded number of rounds goes,
in order of loss, to the best cluster with room; then clusters below the floor take points from those above it.

Notable:
- With more than `EARLY_ROWS` points, all steps but the last look at that many of them, drawn by the seed; the last
  step assigns every point. The bounds hold for all points, whatever their number.
- Points are processed by matrix products in blocks; there is no loop over points in Python except for the tail the
  auction leaves. Deterministic for a given seed. Memory: one table of n · k similarities, in float32.

Shapes: n points, k clusters, D dimension.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

ROUNDS = 30  # auction rounds an assignment step; the tail is filled greedily
BLOCK = 4_096  # points processed at once: with 256 clusters their similarities stay in the cache
EARLY_ROWS = 262_144  # points that steps before the last look at; 1,024 a cluster at 256 clusters


class Clustering(NamedTuple):
    """Result of a balanced k-means."""

    centroids_kD: np.ndarray  # float32, unit length
    labels_n: np.ndarray  # int64
    counts_k: np.ndarray  # int64, between ⌊n/k⌋ and ⌈n/k⌉


def balanced_kmeans(points_nD: np.ndarray, k: int, iterations: int, seed: int, lines: bool = False) -> Clustering:
    """Spherical k-means with clusters of near-equal size.

    Args:
        points_nD: float32; only directions count. Needs n ≥ k.
        k: number of clusters.
        iterations: assignment and update steps.
        seed: draws the start centroids from the points.
        lines: clusters gather around lines instead of directions: a point and its opposite are alike.
    """
    n = len(points_nD)
    assert 1 <= k <= n, f"{k} clusters need at least as many points, there are {n}"
    unit_nD = _unit(np.asarray(points_nD, dtype=np.float32))
    rng = np.random.default_rng(seed)
    centroids_kD = unit_nD[np.sort(rng.choice(n, size=k, replace=False))]
    early = max(EARLY_ROWS, k)
    early_nD = unit_nD[np.sort(rng.choice(n, size=early, replace=False))] if n > early else unit_nD
    for _ in range(iterations - 1):
        centroids_kD, _ = _step(early_nD, centroids_kD, lines)
    centroids_kD, labels_n = _step(unit_nD, centroids_kD, lines)
    return Clustering(centroids_kD, labels_n, np.bincount(labels_n, minlength=k))


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 1e-12)
    return unit


def _step(unit_nD: np.ndarray, centroids_kD: np.ndarray, lines: bool) -> tuple[np.ndarray, np.ndarray]:
    """Assign all points, then move every centroid to the mean direction of its points."""
    k = len(centroids_kD)
    similarity_nk = unit_nD @ centroids_kD.T
    if lines:
        np.abs(similarity_nk, out=similarity_nk)
    labels_n = balanced_assignment(similarity_nk)
    del similarity_nk
    if lines:
        unit_nD = unit_nD * np.where(np.einsum("nd,nd->n", unit_nD, centroids_kD[labels_n]) < 0, -1, 1)[:, None]
    # bincount adds in float64, in the order of the points.
    columns = [np.bincount(labels_n, weights=column_n, minlength=k) for column_n in np.ascontiguousarray(unit_nD.T)]
    return _unit(np.stack(columns, axis=1)).astype(np.float32), labels_n


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def balanced_assignment(similarity_nk: np.ndarray) -> np.ndarray:
    """Assign points to clusters of near-equal size, at a near-maximal sum of similarities.

    Args:
        similarity_nk: higher is better; n ≥ 1 points, k ≤ n clusters.

    Returns:
        [n] int64 labels; every cluster gets ⌊n/k⌋ or ⌈n/k⌉ points.
    """
    n, k = similarity_nk.shape
    capacity = -(-n // k)
    prices_k = np.zeros(k, dtype=similarity_nk.dtype)
    labels_n = np.full(n, -1, dtype=np.int64)
    open_n = np.arange(n)
    for _ in range(ROUNDS):
        for rows in _blocks(len(open_n)):
            labels_n[open_n[rows]] = (similarity_nk[open_n[rows]] - prices_k).argmax(1)
        overfull = np.flatnonzero(np.bincount(labels_n, minlength=k) > capacity)
        if len(overfull) == 0:
            open_n = open_n[:0]
            break
        open_n = _evict(similarity_nk, labels_n, prices_k, overfull, capacity)
    _place(similarity_nk, labels_n, open_n, capacity)
    _raise_floor(similarity_nk, labels_n, n // k)
    return labels_n


def _by_cluster(labels_n: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The points in the order of their clusters, a cluster's in rising order, and k + 1 bounds between clusters."""
    short = labels_n.astype(np.uint16) if k <= 65_536 else labels_n  # numpy sorts short integers by radix
    bounds = np.concatenate([[0], np.bincount(labels_n, minlength=k).cumsum()])
    return np.argsort(short, kind="stable"), bounds


def _evict(
    similarity_nk: np.ndarray, labels_n: np.ndarray, prices_k: np.ndarray, overfull: np.ndarray, capacity: int
) -> np.ndarray:
    """Put the points that lose least out of overfull clusters, and raise those clusters' prices."""
    evicted = []
    points_n, bounds = _by_cluster(labels_n, len(prices_k))
    for cluster in overfull:
        members = points_n[bounds[cluster] : bounds[cluster + 1]]
        regret = _regret(similarity_nk, members, prices_k, cluster)
        out = np.argsort(-regret, kind="stable")[capacity:]
        prices_k[cluster] += max(float(regret[out[0]]), 0.0) + 1e-4
        labels_n[members[out]] = -1
        evicted.append(members[out])
    return np.sort(np.concatenate(evicted))


def _regret(similarity_nk: np.ndarray, members: np.ndarray, prices_k: np.ndarray, cluster: int) -> np.ndarray:
    """What members of a cluster would lose by going elsewhere at current prices."""
    regret = np.empty(len(members), dtype=similarity_nk.dtype)
    for rows in _blocks(len(members)):
        value = similarity_nk[members[rows]]
        value -= prices_k
        own = value[:, cluster].copy()
        value[:, cluster] = -np.inf
        regret[rows] = own - value.max(1)
    return regret


def _place(similarity_nk: np.ndarray, labels_n: np.ndarray, open_n: np.ndarray, capacity: int) -> None:
    """Give each open point, best similarity first, its best cluster with room."""
    if len(open_n) == 0:
        return
    room_k = capacity - np.bincount(labels_n[labels_n >= 0], minlength=similarity_nk.shape[1])
    for point in open_n[np.argsort(-similarity_nk[open_n].max(1), kind="stable")]:
        cluster = int(np.where(room_k > 0, similarity_nk[point], -np.inf).argmax())
        labels_n[point] = cluster
        room_k[cluster] -= 1


def _raise_floor(similarity_nk: np.ndarray, labels_n: np.ndarray, floor: int) -> None:
    """Move points from clusters above the floor into those below it, at the smallest loss.

    No cluster holds more than one point above the floor, so each gives at most its cheapest.
    """
    k = similarity_nk.shape[1]
    for cluster in np.flatnonzero(np.bincount(labels_n, minlength=k) < floor):
        points_n, bounds = _by_cluster(labels_n, k)
        counts_k = np.diff(bounds)
        cheapest = []
        for donor in np.flatnonzero(counts_k > floor):
            points = points_n[bounds[donor] : bounds[donor + 1]]
            loss = similarity_nk[points, donor] - similarity_nk[points, cluster]
            cheapest.append((loss.min(), points[loss.argmin()]))
        taken = itertools.islice(sorted(cheapest), floor - counts_k[cluster])  # equal losses: the first point
        labels_n[[point for _, point in taken]] = cluster
