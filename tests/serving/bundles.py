"""A small bundle of all models with random weights, for all tests of serving."""

import math

import numpy as np
import torch

from prismrec.artifacts.bundle import BundleParts, CatalogueItem
from prismrec.models import backbone
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig
from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig
from prismrec.models.linear_transitions import LinearTransitions, LinearTransitionsConfig
from prismrec.models.merge import Merge, MergeConfig
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.models.retrieval_head import RetrievalHead, RetrievalHeadConfig
from prismrec.quantization.codebook import Codebook

NUM_ITEMS = 60
DIM = 8
NUM_INTERESTS = 3
SIZES = (3, 3)
GENRES = ("Drama", "Comedy", "Horror")
DECODER = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 1,
    "use_cache": False,
    "pad_token_id": None,
}


def catalogue(num_items: int = NUM_ITEMS) -> list[CatalogueItem]:
    """Items "i0", "i1", …, of which the last one is not active."""
    return [
        CatalogueItem(index, f"i{index}", f"Film {index}", (GENRES[index % 3],), index < num_items - 1)
        for index in range(num_items)
    ]


def parts(seed: int = 0) -> BundleParts:
    """Every model that a bundle may hold; i0 is the most popular item, then i1, …"""
    torch.manual_seed(seed)
    vectors_ND = np.random.default_rng(seed).standard_normal((NUM_ITEMS, DIM)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    active_N = np.array([item.active for item in catalogue()])
    codebook = Codebook.fit(vectors_ND, layers=2, codes=8, iterations=2, seed=seed)
    codes = codebook.encode(vectors_ND)
    dictionary = InterestDictionary(InterestDictionaryConfig(DIM, code_dim=4, hidden=8, sizes=SIZES)).eval()
    with torch.no_grad():
        dictionary.quantizer.start_from(dictionary.encode(torch.from_numpy(vectors_ND)), seed)
    cells_N = dictionary.cell_index(dictionary.codes_of(torch.from_numpy(vectors_ND))).numpy()
    return BundleParts(
        items=catalogue(),
        parts={
            "item_vectors": {"vectors": vectors_ND, "recommendable": active_N},
            "lightweight_encoder": _encoder(),
            "codebook": codebook,
            "item_codes": {"codes": codes.codes_nL, "coefficients": codes.coefficients_nL},
            "recommender": _recommender(),
            "transitions": _transitions(),
            "merge": _merge(),
            "dictionary": dictionary,
            "item_cells": {"cells": cells_N},
            "posterior": _posterior(dictionary, cells_N[active_N]),
            "retrieval": RetrievalHead(
                RetrievalHeadConfig(DIM, _cell_dim(dictionary), 8, 0.0, NUM_INTERESTS, dictionary.version)
            ).eval(),
            "popularity": {"counts": np.arange(NUM_ITEMS, 0, -1, dtype=np.int64)},
        },
        default_model="hymirec",
        dictionary_version=dictionary.version,
        created_from={"split_hash": f"seed-{seed}"},
    )


def _encoder() -> LightweightEncoder:
    config = LightweightEncoderConfig(dim=DIM, num_interests=NUM_INTERESTS, hidden=16, kernel=3, dropout=0.0, length=50)
    return LightweightEncoder(config).eval()


def _recommender() -> Recommender:
    config = RecommenderConfig(
        dim=DIM, num_interests=NUM_INTERESTS, recent_length=5, long_length=20,
        recent_from_codebook=False, dropout=0.0, backbone_name=backbone.SCRATCH,
    )  # fmt: skip
    return Recommender(config, _encoder(), backbone.from_config(DECODER)).eval()


def _transitions() -> LinearTransitions:
    """The next item by number follows, and the first one after the last."""
    transitions = LinearTransitions(LinearTransitionsConfig(NUM_ITEMS, 1, (0.0,)))
    transitions.columns_RM.copy_((torch.arange(NUM_ITEMS)[:, None] + 1) % NUM_ITEMS)
    transitions.values_RM.fill_(0.5)
    return transitions


def _merge() -> Merge:
    merge = Merge(MergeConfig(("llm_recommender", "lightweight_encoder", "linear_transitions")))
    merge.timed_M.copy_(torch.tensor([0.5, 0.5, 2.0]))
    merge.timeless_M.copy_(torch.tensor([0.6, 0.4, 3.0]))
    return merge


def _posterior(dictionary: InterestDictionary, cells_N: np.ndarray) -> Posterior:
    occupied_G = np.bincount(cells_N, minlength=math.prod(SIZES)) > 0
    config = PosteriorConfig(
        dim=DIM, cell_dim=_cell_dim(dictionary), sizes=SIZES, hidden=16, layers=1, heads=2,
        dropout=0.0, dictionary=dictionary.version,
    )  # fmt: skip
    return Posterior(config, dictionary.cell_embeddings(), torch.from_numpy(occupied_G)).eval()


def _cell_dim(dictionary: InterestDictionary) -> int:
    return dictionary.cell_embeddings().shape[1]
