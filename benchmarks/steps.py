"""Training steps for the benchmarks of speed: data of ML-1M's shape, and the LLM recommender outside the pipeline.

Item vectors and the lightweight encoder are random: they cost what trained ones cost, and steps need no stage before.

Shapes: U users, E events, N items, D item dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.peers.exchange import Exchange, read_exchange
from prismrec.artifacts.stage_record import take_costs
from prismrec.models import backbone
from prismrec.models.events import EventTable
from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig
from prismrec.models.rankers import RecommenderRanker
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.parameters.training import TrainingParameters
from prismrec.training import held, loop
from prismrec.training.memory import keep_freed_memory
from prismrec.training.recommender import RecommenderTask
from prismrec.training.sequences import TrainingData
from prismrec.training.speed import Meter

USERS, ITEMS = 6040, 3416  # ML-1M
MEDIAN_LENGTH, SPREAD, SHORTEST, LONGEST = 96, 1.05, 20, 2300  # its histories: log-normal, about
COARSE = 4  # interests of the lightweight encoder
KERNEL = 4
EVERY = 10**9  # steps an epoch, users, positions: no limit


def load_parameters(environment: str) -> dict[str, Any]:
    """Resolved parameters of a Kedro environment, by stage."""
    from benchmarks.peers.prepare import open_environment

    return open_environment(environment)[2]


def like_ml1m(users: int = USERS, seed: int = 1) -> Exchange:
    """Histories of ML-1M's lengths, in which items follow each other in no order; leave-one-out."""
    rng = np.random.default_rng(seed)
    lengths_U = np.exp(rng.normal(np.log(MEDIAN_LENGTH), SPREAD, users)).astype(np.int64).clip(SHORTEST, LONGEST)
    offsets = np.concatenate([[0], np.cumsum(lengths_U)])
    share_N = 1.0 / np.arange(10, ITEMS + 10)
    items = rng.choice(ITEMS, offsets[-1], p=share_N / share_N.sum()).astype(np.int32)
    times = 950_000_000 + np.cumsum(rng.integers(0, 100, offsets[-1]))
    about = {"name": "synthetic", "title": "Lengths of ML-1M's histories, random items", "split_hash": f"seed {seed}"}
    train_U = (lengths_U - 2).astype(np.int32)
    return Exchange(offsets, items, times, train_U, train_U, train_U + 1, np.arange(ITEMS, dtype=np.int32), about)


def exchanged(folder: Path | None) -> Exchange:
    """The split of a folder that `benchmarks.peers.prepare` wrote; synthetic data where None."""
    return like_ml1m() if folder is None else read_exchange(folder)


def training_data(exchange: Exchange, validation_users: int, seed: int) -> TrainingData:
    """What our tasks train and validate on."""
    start_U = exchange.validation_U
    everything_N = np.ones(exchange.num_items, dtype=bool)
    events = EventTable(exchange.offsets, exchange.items, exchange.timestamps)
    return TrainingData(events, exchange.train_end_U, start_U, start_U + 1, everything_N, validation_users, seed)


class RecommenderSteps(RecommenderTask):
    """The LLM recommender's training, so many steps an epoch, without validation."""

    most_steps = EVERY

    def epoch(self, rng: np.random.Generator) -> Any:
        """The first batches of an epoch; batches are in random order."""
        return super().epoch(rng)[: self.most_steps]

    def validate(self) -> dict[str, float]:
        """Nothing is ranked: only steps are looked at."""
        return {"ndcg@10": 0.0}


def recommender_task(
    parameters: LLMRecommenderParameters, encoder: Mapping[str, Any], exchange: Exchange
) -> RecommenderSteps:
    """The LLM recommender with a scratch backbone, ready to train.

    Args:
        encoder: parameters of the stage `lightweight_encoder`.
    """
    torch.manual_seed(parameters.seed)
    longest = parameters.recent_length + parameters.num_interests + COARSE
    decoder = backbone.from_config(
        backbone.scratch_config(
            parameters.hidden, parameters.layers, parameters.heads, parameters.dropout, longest,
            parameters.kv_heads, parameters.head_dim, parameters.intermediate,
        )
    )  # fmt: skip
    dim = encoder["dim"]
    sizes = LightweightEncoderConfig(dim, COARSE, encoder["hidden"], KERNEL, encoder["dropout"], parameters.long_length)
    items_ND = F.normalize(torch.randn(exchange.num_items, dim), dim=-1)
    config = RecommenderConfig(
        dim=dim,
        num_interests=parameters.num_interests,
        recent_length=parameters.recent_length,
        long_length=parameters.long_length,
        recent_from_codebook=parameters.recent_from_codebook,
        long_from=parameters.long_from,
        dropout=parameters.dropout,
        backbone_name=parameters.backbone,
        num_items=exchange.num_items if parameters.item_offset_rate else 0,
        now=parameters.teaches_now,
    )
    recommender = Recommender(config, LightweightEncoder(sizes), decoder)
    recommender.encoder.requires_grad_(parameters.train_encoder)
    recommender.encoder.log_scale.requires_grad_(False)
    everything_N = torch.ones(exchange.num_items, dtype=torch.bool)
    ranker = RecommenderRanker(recommender, items_ND, items_ND, items_ND, everything_N)
    data = training_data(exchange, parameters.training.validation_users, parameters.seed)
    return RecommenderSteps(ranker, data, parameters)


@loop.repeatable()
def measured_steps(task: Any, schedule: TrainingParameters, seed: int, warm_up: int, number: int) -> dict[str, float]:
    """Speed of so many steps of the training loop, after others that are not counted (compiling, first touches).

    Args:
        task: takes at most its `most_steps` batches an epoch.

    Returns:
        The loop's own figures; see `prismrec.training.speed`.
    """
    keep_freed_memory()
    accelerator = loop._accelerator(schedule)
    held.place(task, accelerator.device)
    try:
        training = loop._Training(task, schedule, seed, accelerator, None, None)
        for task.most_steps in (warm_up, number):
            training.meter = Meter()
            training._epoch()
        training.print_speed()
    finally:
        held.place(task, "cpu")
    found: dict[str, float] = take_costs()[task.name]
    return found
