"""Vectors for the codebook's benchmarks: clustered ones made from a seed, and the item vectors of an environment.

Clustered: 1,000 cluster centres on the unit sphere, of unequal sizes (the r-th largest in proportion to r^-0.7); a
vector is its centre plus Gaussian noise of expected length 0.7, brought to unit length. Two vectors of one cluster have
a cosine of about 0.67, of two clusters about 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

CENTRES, SKEW, NOISE = 1_000, 0.7, 0.7


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """[n, dim] float32, unit length."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((CENTRES, dim), dtype=np.float32))
    share = np.arange(1, CENTRES + 1) ** -SKEW
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    rows *= NOISE / np.sqrt(dim)
    rows += centres[rng.choice(CENTRES, n, p=share / share.sum())]
    return unit(rows)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows brought to unit length."""
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def of_environment(env: str) -> np.ndarray:
    """Recommendable items' vectors that the last `lightweight_encoder` of an environment wrote."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    project = Path(__file__).parents[1]
    bootstrap_project(project)
    with KedroSession.create(project, env=env) as session:
        stored = session.load_context().catalog.load("item_vectors")
    vectors: np.ndarray = stored["vectors"][stored["recommendable"]]
    return vectors
