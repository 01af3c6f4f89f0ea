"""Small bundles of real models with random weights, for all tests of serving."""

import numpy as np

from prismrec.artifacts.bundle import BundleParts, CatalogueItem

NUM_ITEMS = 60
DIM = 8
NUM_INTERESTS = 3
GENRES = ("Drama", "Comedy", "Horror")


def catalogue(num_items: int = NUM_ITEMS) -> list[CatalogueItem]:
    """Items "i0", "i1", …, of which the last one is not active."""
    return [
        CatalogueItem(index, f"i{index}", f"Film {index}", (GENRES[index % 3],), index < num_items - 1)
        for index in range(num_items)
    ]


def parts(seed: int = 0) -> BundleParts:
    """Item vectors, a lightweight encoder and popularity: i0 is the most popular item, then i1, …"""
    import torch

    from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig

    torch.manual_seed(seed)
    vectors_ND = np.random.default_rng(seed).standard_normal((NUM_ITEMS, DIM)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    encoder = LightweightEncoder(LightweightEncoderConfig(dim=DIM, num_interests=NUM_INTERESTS, hidden=16))
    return BundleParts(
        items=catalogue(),
        parts={
            "item_vectors": {"vectors": vectors_ND, "trained": np.ones(NUM_ITEMS, dtype=bool)},
            "lightweight_encoder": encoder.eval(),
            "popularity": {"counts": np.arange(NUM_ITEMS, 0, -1, dtype=np.int64)},
        },
        default_model="lightweight_encoder",
        labels={},
        created_from={"split_hash": f"seed-{seed}"},
    )
