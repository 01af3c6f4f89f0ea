"""A small bundle of all models with random weights, for all tests of serving."""

import math
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from prismrec.artifacts.bundle import BundleParts, CatalogueItem
from prismrec.models import backbone
from prismrec.models.counted import Counted
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig, stamp
from prismrec.models.item_text import NewItem
from prismrec.models.item_tower import ItemTower, ItemTowerConfig
from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig
from prismrec.models.linear_transitions import LinearTransitions, LinearTransitionsConfig
from prismrec.models.merge import Merge, MergeConfig
from prismrec.models.new_items import PackedTextEncoder
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.recency import DAY, Recency
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.models.retrieval_head import RetrievalHead, RetrievalHeadConfig
from prismrec.models.text_encoder import TextEncoder
from prismrec.quantization.codebook import Codebook

NUM_ITEMS = 60
DIM = 8
NUM_INTERESTS = 3
RECENT_DAY = 300  # when what is counted lately was met
SIZES = (3, 3)
GENRES = ("Drama", "Comedy", "Horror")
UNTRAINED = [57, 58]  # items without behaviour: their vectors come from their texts alone
WORDS = ("Film", "Drama", "Comedy", "Horror", "robots", "quiet", ".", ",", *map(str, range(10)))
MAX_TOKENS = 24
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
    active_N = np.array([item.active for item in catalogue()])
    trained_N = np.ones(NUM_ITEMS, dtype=bool)
    trained_N[UNTRAINED] = False
    text_NE = text_embeddings()
    tower = _tower(text_NE, trained_N)
    with torch.no_grad():
        vectors_ND = tower(text_NE, torch.from_numpy(trained_N)).numpy()
    codebook = Codebook.fit(vectors_ND, layers=2, codes=8, iterations=2, seed=seed)
    codes = codebook.encode(vectors_ND)
    dictionary = InterestDictionary(InterestDictionaryConfig(DIM, code_dim=4, hidden=8, sizes=SIZES)).eval()
    with torch.no_grad():
        dictionary.quantizer.start_from(dictionary.encode(torch.from_numpy(vectors_ND)), seed)
    cells_N = dictionary.cell_index(dictionary.codes_of(torch.from_numpy(vectors_ND))).numpy()
    return BundleParts(
        items=catalogue(),
        parts={
            "item_vectors": {"vectors": vectors_ND, "recommendable": active_N, "trained": trained_N},
            "item_tower": tower,
            "text_encoder": PackedTextEncoder(str(text_encoder_folder()), {"max_tokens": MAX_TOKENS}),
            "text_embeddings": {"embeddings": text_NE.numpy().astype(np.float16)},
            "lightweight_encoder": _encoder(),
            "codebook": codebook,
            "item_codes": {"codes": codes.codes_nL, "coefficients": codes.coefficients_nL},
            "recommender": _recommender(),
            "counted": _counted(),
            "merge": _merge(),
            "dictionary": dictionary,
            "item_cells": {"cells": cells_N, **stamp(dictionary.version)},
            "posterior": _posterior(dictionary, cells_N[active_N]),
            "retrieval": RetrievalHead(
                RetrievalHeadConfig(DIM, _cell_dim(dictionary), 8, 0.0, NUM_INTERESTS, dictionary.version)
            ).eval(),
            "unified_merge": _unified_merge(),
            "popularity": {"counts": np.arange(NUM_ITEMS, 0, -1, dtype=np.int64)},
        },
        default_model="hymirec",
        dictionary_version=dictionary.version,
        created_from={"split_hash": f"seed-{seed}"},
    )


@cache
def text_encoder_folder() -> Path:
    """A small text encoder that knows a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from models.checkpoints import save_checkpoint

    folder = save_checkpoint("bert", Path(tempfile.mkdtemp(prefix="text-encoder-")))
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<pad>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return folder


@cache
def text_embeddings() -> torch.Tensor:
    """Of the catalogue's texts."""
    texts = [NewItem(item.title, categories=item.categories).text for item in catalogue()]
    return torch.from_numpy(TextEncoder(str(text_encoder_folder()), MAX_TOKENS).encode(texts))


def _tower(text_NE: torch.Tensor, trained_N: np.ndarray) -> ItemTower:
    tower = ItemTower(ItemTowerConfig(NUM_ITEMS, text_NE.shape[1], DIM))
    spectral_ND = F.normalize(torch.randn(NUM_ITEMS, DIM), dim=1).numpy() * trained_N[:, None]
    tower.start_from(text_NE, spectral_ND, trained_N)
    return tower.eval()


def _encoder() -> LightweightEncoder:
    config = LightweightEncoderConfig(dim=DIM, num_interests=NUM_INTERESTS, hidden=16, kernel=3, dropout=0.0, length=50)
    return LightweightEncoder(config).eval()


def _recommender() -> Recommender:
    config = RecommenderConfig(
        dim=DIM, num_interests=NUM_INTERESTS, recent_length=5, long_length=20,
        recent_from_codebook=False, dropout=0.0, backbone_name=backbone.SCRATCH, num_items=NUM_ITEMS,
    )  # fmt: skip
    recommender = Recommender(config, _encoder(), backbone.from_config(DECODER)).eval()
    recommender.trained_N[UNTRAINED] = False
    with torch.no_grad():
        recommender.offset_ND.normal_(std=0.1)
    return recommender


def _counted() -> Counted:
    """Transitions, and item 2 met by everybody on one day long ago."""
    times = np.full(9, RECENT_DAY * DAY)
    return Counted.of(_transitions(), Recency.count(np.full(9, 2), times, NUM_ITEMS, window=7))


def _transitions() -> LinearTransitions:
    """The next item by number follows, and the first one after the last."""
    transitions = LinearTransitions(LinearTransitionsConfig(NUM_ITEMS, 1, (0.0,)))
    transitions.columns_RM.copy_((torch.arange(NUM_ITEMS)[:, None] + 1) % NUM_ITEMS)
    transitions.values_RM.fill_(0.5)
    return transitions


def _merge() -> Merge:
    merge = Merge(MergeConfig(("llm_recommender", "lightweight_encoder", "linear_transitions", "recency")))
    merge.timed_M.copy_(torch.tensor([0.5, 0.5, 2.0, 1.0]))
    merge.timeless_M.copy_(torch.tensor([0.6, 0.4, 3.0, 0.0]))
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


def _unified_merge() -> Merge:
    hymirec = _merge()
    merge = hymirec.widened((*hymirec.config.members, "gemirec"))
    merge.timed_M[-1], merge.timeless_M[-1] = 0.2, 0.3
    return merge
