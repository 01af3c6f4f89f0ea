"""A world in which every user walks from item to item: learnable, and no item occurs twice in a history."""

from typing import Any

import numpy as np

from prismrec.models.events import EventTable
from prismrec.parameters.lightweight_encoder import LightweightEncoderParameters
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.parameters.training import TrainingParameters
from prismrec.training.sequences import TrainingData

NUM_ITEMS = 30


def next_item(item: Any) -> Any:
    """Where a walk goes on from an item."""
    return (item + 1) % NUM_ITEMS


class Walks:
    """Histories of the given lengths; the last two events of each are for validation and test."""

    def __init__(self, lengths: list[int], seed: int = 0, validation_users: int = 1000) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = np.array(lengths)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        starts = rng.integers(0, NUM_ITEMS, len(lengths))
        self.items = np.concatenate(
            [(start + np.arange(length)) % NUM_ITEMS for start, length in zip(starts, lengths, strict=True)]
        )
        self.times = np.cumsum(rng.integers(0, 5000, len(self.items)))
        self.train_ends = self.lengths - 2
        self.validation_starts, self.validation_ends = self.lengths - 2, self.lengths - 1
        self.recommendable = np.ones(NUM_ITEMS, dtype=bool)
        self.validation_users = validation_users

    def of(self, user: int) -> np.ndarray:
        """A user's items."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def data(self, seed: int = 0) -> TrainingData:
        """The world as the tasks read it."""
        return TrainingData(
            EventTable(self.offsets, self.items, self.times),
            self.train_ends, self.validation_starts, self.validation_ends, self.recommendable, self.validation_users,
            seed,
        )  # fmt: skip


def random_lengths(users: int = 60, longest: int = 16, seed: int = 0) -> list[int]:
    """Lengths from 3 (one training event) upwards."""
    return np.random.default_rng(seed).integers(3, longest + 1, users).tolist()


def training(**changes: Any) -> TrainingParameters:
    """Parameters of a short training run."""
    values = {
        "epochs": 3, "patience": 3, "batch_size": 16, "learning_rate": 0.01, "weight_decay": 0.01,
        "warmup_share": 0.1, "clip_norm": 1.0, "bf16": False, "positions_per_step": 256, "validation_users": 1000,
        "accumulation": 1, "device": "auto", "checkpoint_seconds": 0.0,
    }  # fmt: skip
    return TrainingParameters(**{**values, **changes})


def recommender_parameters(**changes: Any) -> LLMRecommenderParameters:
    """Parameters of a small LLM recommender."""
    values = {
        "seed": 0, "backbone": "scratch", "tuning": "full", "lora_rank": 2, "hidden": 16, "layers": 1, "heads": 2,
        "kv_heads": None, "head_dim": None, "intermediate": None, "negatives": "full", "num_negatives": 64,
        "negative_exponent": 0.75, "dropout": 0.1, "num_interests": 2, "recent_length": 6, "long_length": 20,
        "recent_from_codebook": False, "train_encoder": True, "item_offset_rate": 0.5, "target_window": 4,
        "next_item_weight": 1.0, "merge_weight": 0.5,
        "duplicate_cosine": 0.98, "gradient_checkpointing": False, "compile": False,
        "transitions": {"decays": (), "ridge": 1.0, "kept": 8, "max_items": 100}, "recent_days": 7,
        "training": training(),
    }  # fmt: skip
    return LLMRecommenderParameters(**{**values, **changes})


def encoder_parameters(**changes: Any) -> LightweightEncoderParameters:
    """Parameters of a small lightweight encoder."""
    values = {
        "seed": 0, "text_encoder": "packaged", "max_tokens": 8, "text_training": "frozen", "text_lora_rank": 2,
        "text_items_per_step": 8, "text_learning_rate": 0.001, "dim": 8, "num_interests": 2, "hidden": 12,
        "pooling": "decay", "kernel": 3, "dropout": 0.1, "residual_dropout": 0.2, "untrained_lift": 0.2,
        "train_length": 8, "long_length": 20, "target_window": 3, "matching_weight": 0.5, "duplicate_cosine": 0.98,
        "training": training(),
    }  # fmt: skip
    return LightweightEncoderParameters(**{**values, **changes})
