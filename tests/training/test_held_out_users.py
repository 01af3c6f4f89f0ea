"""Users held out whole train nothing: no task takes a crop of them, and nobody's crop goes past the training events."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prismrec.models.transitions import transition_counts
from prismrec.training.baselines import BaselineTask
from prismrec.training.gemirec import PosteriorTask
from prismrec.training.lightweight_encoder import LightweightEncoderTask
from prismrec.training.recommender import Cut, RecommenderTask
from training.small import NUM_ITEMS, Walks, encoder_parameters, random_lengths, recommender_parameters, training


def task(kind: Any, world: Walks) -> Any:
    """As much of a task as drawing an epoch reads."""
    found = SimpleNamespace(data=world.data(), training=training())
    if kind is RecommenderTask:
        found.parameters = recommender_parameters()
    elif kind is LightweightEncoderTask:
        found.parameters = encoder_parameters()
    elif kind is BaselineTask:
        found.parameters = SimpleNamespace(length=6, training=training())
    else:
        config = SimpleNamespace(recent_length=6)
        found.ranker = SimpleNamespace(context=SimpleNamespace(recommender=SimpleNamespace(config=config)))
    return found


@pytest.mark.parametrize("kind", [LightweightEncoderTask, RecommenderTask, PosteriorTask, BaselineTask])
def test_no_task_trains_on_held_out_events(kind: Any) -> None:
    world = Walks(random_lengths())
    world.train_ends[::3] = 0
    world.train_ends[1::3] = world.lengths[1::3]
    for seed in range(5):
        found = task(kind, world)
        found.part = (None, 0.5)[seed % 2]  # of GemiRec's: a whole epoch, or a refresh's part of one
        for batch in kind.epoch(found, np.random.default_rng(seed)):
            users = batch.users_B.numpy()
            last = batch.cuts_B + batch.ahead_B if isinstance(batch, Cut) else batch.ends_B
            assert (world.train_ends[users] >= 2).all()
            assert (last.numpy() <= world.train_ends[users]).all()


def test_transitions_of_held_out_users_are_not_counted() -> None:
    world = Walks(random_lengths())
    world.train_ends[::3] = 0
    counts = transition_counts(world.items, world.offsets, world.train_ends, NUM_ITEMS, max_lag=1)
    assert counts.sum() == np.maximum(world.train_ends - 1, 0).sum()
    assert transition_counts(world.items, world.offsets, np.zeros_like(world.lengths), NUM_ITEMS).sum() == 0
