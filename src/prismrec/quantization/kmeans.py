"""Balanced k-means with cosine assignment (HyMiRec, part 2; the balancing method is our choice).

Every cluster holds at least ⌊n/k⌋ and at most ⌈n/k⌉ points. Plain k-means leaves some codes nearly empty and others
overfull; with exact capacity bounds every code earns its place.

Method: spherical k-means, where the assignment step is an auction. Points bid for clusters in rounds: each still
unassigned point asks for its best cluster at current prices, an overfull cluster keeps the points that would lose
most elsewhere, and its price rises for the rest. What the auction leaves open after a bounded number of rounds goes,
in order of loss, to the best cluster with room; then clusters below the floor take points from those above it.

Notable: points are processed by matrix products in blocks; there is no loop over points in Python except for the
tail the auction leaves. Deterministic for a given seed.

Shapes: n points, k clusters, D dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ROUNDS = 30  # auction rounds an assignment step; the tail is filled greedily
BLOCK = 65_536  # points whose similarities are held at once


class Clustering(NamedTuple):
    """Result of a balanced k-means."""

    centroids_kD: np.ndarray  # float32, unit length
    labels_n: np.ndarray  # int64
    counts_k: np.ndarray  # int64, between ⌊n/k⌋ and ⌈n/k⌉


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 1e-12)
    return unit


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
        if len(open_n) == 0:
            break
        labels_n[open_n] = (similarity_nk[open_n] - prices_k).argmax(1)
        counts_k = np.bincount(labels_n, minlength=k)
        overfull = np.flatnonzero(counts_k > capacity)
        if len(overfull) == 0:
            open_n = open_n[:0]
            break
        open_n = _evict(similarity_nk, labels_n, prices_k, overfull, capacity)
    _place(similarity_nk, labels_n, open_n, capacity)
    _raise_floor(similarity_nk, labels_n, n // k)
    return labels_n


def _evict(
    similarity_nk: np.ndarray, labels_n: np.ndarray, prices_k: np.ndarray, overfull: np.ndarray, capacity: int
) -> np.ndarray:
    """Put the points that lose least out of overfull clusters, and raise those clusters' prices."""
    evicted = []
    for cluster in overfull:
        members = np.flatnonzero(labels_n == cluster)
        value = similarity_nk[members] - prices_k
        own = value[:, cluster].copy()
        value[:, cluster] = -np.inf
        regret = own - value.max(1)  # what a member loses by going elsewhere
        order = np.argsort(-regret, kind="stable")
        out = order[capacity:]
        prices_k[cluster] += max(float(regret[out[0]]), 0.0) + 1e-4
        labels_n[members[out]] = -1
        evicted.append(members[out])
    return np.sort(np.concatenate(evicted))


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
    """Move points from clusters above the floor into those below it, at the smallest loss."""
    counts_k = np.bincount(labels_n, minlength=similarity_nk.shape[1])
    for cluster in np.flatnonzero(counts_k < floor):
        while counts_k[cluster] < floor:
            movable = np.flatnonzero(counts_k[labels_n] > floor)
            loss = similarity_nk[movable, labels_n[movable]] - similarity_nk[movable, cluster]
            point = movable[loss.argmin()]
            counts_k[labels_n[point]] -= 1
            counts_k[cluster] += 1
            labels_n[point] = cluster


def balanced_kmeans(points_nD: np.ndarray, k: int, iterations: int, seed: int) -> Clustering:
    """Spherical k-means with clusters of near-equal size.

    Args:
        points_nD: float32; only directions count. Needs n ≥ k.
        k: number of clusters.
        iterations: assignment and update steps.
        seed: draws the start centroids from the points.
    """
    n = len(points_nD)
    assert 1 <= k <= n, f"{k} clusters need at least as many points, there are {n}"
    unit_nD = _unit(np.asarray(points_nD, dtype=np.float32))
    rng = np.random.default_rng(seed)
    centroids_kD = unit_nD[np.sort(rng.choice(n, size=k, replace=False))]
    labels_n = np.zeros(n, dtype=np.int64)
    for _ in range(iterations):
        similarity_nk = np.concatenate(
            [unit_nD[start : start + BLOCK] @ centroids_kD.T for start in range(0, n, BLOCK)]
        )
        labels_n = balanced_assignment(similarity_nk)
        sums_kD = np.zeros((k, unit_nD.shape[1]), dtype=np.float64)
        np.add.at(sums_kD, labels_n, unit_nD)
        centroids_kD = _unit(sums_kD).astype(np.float32)
    return Clustering(centroids_kD, labels_n, np.bincount(labels_n, minlength=k))
