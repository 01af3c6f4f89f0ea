"""Fitting of the interest dictionary, and its drift."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.dictionary import data_version, fit_dictionary


def parameters(**changes: Any) -> DictionaryParameters:
    values = {
        "levels": 2, "items_per_cell": 10, "codes_per_level": None, "code_dim": 6, "hidden": 24, "commitment": 0.25,
        "warm_up_steps": 50, "steps": 200, "batch_size": 64, "learning_rate": 0.005,
    }  # fmt: skip
    return DictionaryParameters(**{**values, **changes})


def planted(per_cluster: int = 20) -> tuple[torch.Tensor, np.ndarray]:
    """Nine clusters: three far apart, each of the same three parts."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = torch.randn(3, 12, generator=generator) * 2, torch.randn(3, 12, generator=generator) * 0.7
    centres = coarse.repeat_interleave(3, 0) + fine.repeat(3, 1)
    label = np.repeat(np.arange(9), per_cluster)
    noise = 0.02 * torch.randn(len(label), 12, generator=generator)
    return F.normalize(centres[label] + noise, dim=-1), label


@pytest.mark.parametrize("seed", [0, 2])
def test_planted_clusters_become_cells(seed: int) -> None:
    vectors, label = planted()
    before = vectors.clone()
    made, losses = fit_dictionary(vectors, 180, parameters(codes_per_level=4, warm_up_steps=100, steps=400), seed)
    assert torch.equal(vectors, before)
    assert not made.training
    cells = made.cell_index(made.codes_of(vectors)).numpy()
    for cluster in range(9):
        counts = np.bincount(cells[label == cluster])
        assert counts.max() >= 0.9 * counts.sum(), "a cluster is torn apart"
    assert len({int(np.bincount(cells[label == cluster]).argmax()) for cluster in range(9)}) >= 7
    with torch.no_grad():
        reconstruction, commitment, _ = made.loss(vectors, 0.25)
    variance = float((vectors - vectors.mean(0)).square().sum(1).mean())
    assert float(reconstruction) < 0.1 * variance
    assert set(losses) == {"reconstruction_loss", "commitment_loss", "codes_reseeded"}
    assert losses["reconstruction_loss"] < 0.1 * variance
    assert float(commitment) < 0.1 * variance


def test_every_code_is_in_use_after_the_fit() -> None:
    vectors, _ = planted()
    made, _ = fit_dictionary(vectors, 180, parameters(codes_per_level=6), seed=0)
    codes = made.codes_of(vectors).numpy()
    for level in range(2):
        assert len(np.unique(codes[:, level])) >= 5, "most codes of a level died"


def test_one_seed_one_version() -> None:
    vectors, _ = planted()
    versions = [fit_dictionary(vectors, 180, parameters(steps=30), seed)[0].version for seed in (0, 0, 1)]
    assert versions[0] == versions[1]
    assert versions[0] != versions[2]


def test_the_size_follows_the_catalogue_unless_it_is_set() -> None:
    vectors, _ = planted()
    automatic, _ = fit_dictionary(vectors, 160, parameters(steps=4), 0)
    assert automatic.sizes == (4, 4)
    one, _ = fit_dictionary(vectors, 160, parameters(steps=4, levels=1), 0)
    assert one.sizes == (16,)
    fixed, _ = fit_dictionary(vectors, 160, parameters(steps=4, codes_per_level=5), 0)
    assert fixed.sizes == (5, 5)


def test_a_fitted_dictionary_has_no_parent_and_names_its_data() -> None:
    vectors, _ = planted()
    made, _ = fit_dictionary(vectors, 160, parameters(steps=4), 0)
    assert made.config.parent is None
    assert made.config.data == data_version(vectors)
    assert data_version(vectors) != data_version(vectors.flip(0))
