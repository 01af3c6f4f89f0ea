"""The node that trains the LLM recommender: which items learn offsets, and how fast."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from models.small import DIM, item_vectors, small_encoder
from prismrec.data.histories import Histories
from prismrec.data.splits import leave_one_out
from prismrec.models.recommender import Recommender
from prismrec.pipelines.llm_recommender.nodes import train_recommender
from prismrec.quantization.codebook import Codebook
from training.small import recommender_parameters, training

ITEMS = 60
UNTRAINED = 7  # nobody's training events have it


def trained(rate: float) -> tuple[Recommender, torch.Tensor, dict[float, set[float]]]:
    """The node's recommender, the item vectors, and the learning rates of each share of the rate."""
    vectors, known = item_vectors(ITEMS), np.arange(ITEMS) != UNTRAINED
    rng = np.random.default_rng(0)
    histories = Histories.from_lists([rng.choice(np.flatnonzero(known), 10, replace=False) for _ in range(24)])
    codebook = Codebook.fit(vectors.numpy(), layers=2, codes=8, iterations=2, seed=0)
    items = {"vectors": vectors.numpy(), "recommendable": np.ones(ITEMS, dtype=bool), "trained": known}
    rates: dict[float, set[float]] = {}

    def note(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            rates.setdefault(group["rate_share"], set()).add(group["lr"])

    hook = register_optimizer_step_pre_hook(note)
    parameters = recommender_parameters(item_offset_rate=rate, training=training(epochs=1, batch_size=8))
    codes = codebook.encode(vectors.numpy()).arrays()
    recommender, *_ = train_recommender(
        items, codebook, codes, small_encoder(), histories, leave_one_out(histories), parameters
    )
    hook.remove()
    return recommender, vectors, rates


def test_items_that_training_met_learn_offsets_at_their_share_of_the_rate() -> None:
    recommender, vectors, rates = trained(0.5)
    assert recommender.config.num_items == ITEMS
    assert torch.nonzero(~recommender.trained_N).tolist() == [[UNTRAINED]]
    assert sorted(rates[0.5]) == pytest.approx([rate / 2 for rate in sorted(rates[1.0])])
    with torch.no_grad():
        moved_N = (recommender.items(vectors) - vectors).norm(dim=1) > 1e-4
    assert torch.nonzero(~moved_N).tolist() == [[UNTRAINED]]


def test_without_a_rate_there_are_no_offsets() -> None:
    recommender, vectors, rates = trained(0.0)
    assert recommender.config.num_items == 0
    assert set(rates) == {1.0}
    assert recommender.items(vectors) is vectors
    assert vectors.shape == (ITEMS, DIM)
