"""Small worlds and modules, for the tests of models and training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.models.events import EventTable
from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig

NUM_ITEMS = 40
DIM = 8


def randomise(module: nn.Module, seed: int = 0, spread: float = 0.2) -> nn.Module:
    """Move every parameter off its start value and switch dropout off.

    Much starts at zero: what a test asks of an untrained module may fail as soon as a bias has learned something.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def item_vectors(num_items: int = NUM_ITEMS, dim: int = DIM, seed: int = 0) -> Tensor:
    """Random unit vectors: [N, D]."""
    return F.normalize(torch.randn(num_items, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def histories(
    lengths: Sequence[int], num_items: int = NUM_ITEMS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, items and timestamps of random histories."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, num_items, offsets[-1])
    # Gaps from none to months, so that all the buckets occur.
    times = [1_000_000_000 + np.cumsum(2 ** rng.integers(0, 24, length) - 1) for length in lengths]
    return offsets, items, np.concatenate(times)


def event_table(lengths: Sequence[int], num_items: int = NUM_ITEMS, seed: int = 0) -> EventTable:
    """Random histories of the given lengths."""
    return EventTable(*histories(lengths, num_items, seed))


def small_encoder(num_interests: int = 3, kernel: int = 3, seed: int = 0) -> LightweightEncoder:
    """A lightweight encoder with random weights everywhere."""
    torch.manual_seed(seed)
    encoder = LightweightEncoder(LightweightEncoderConfig(DIM, num_interests, 12, kernel, dropout=0.3, length=100))
    randomise(encoder, seed)
    return encoder
