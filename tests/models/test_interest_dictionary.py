"""Interest dictionary: the two losses' gradients, cells and codes, versions."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from models.small import item_vectors, randomise
from prismrec.artifacts.model_folder import write_tensors
from prismrec.errors import LineageError
from prismrec.models import load_model
from prismrec.models.interest_dictionary import (
    InterestDictionary,
    InterestDictionaryConfig,
    check_version,
    sizes_for,
    stamp,
    stamped_version,
)

CONFIG = InterestDictionaryConfig(dim=8, code_dim=4, hidden=16, sizes=(3, 4))
VECTORS = item_vectors(50)


def dictionary(config: InterestDictionaryConfig = CONFIG, seed: int = 0) -> InterestDictionary:
    torch.manual_seed(seed)
    made = InterestDictionary(config)
    randomise(made, seed)
    with torch.no_grad():
        made.quantizer.start_from(made.encode(VECTORS), seed)
    return made


def test_losses_are_those_of_the_paper() -> None:
    """Reconstruction of v through the sum of the chosen codes, β Σ_c ‖r_c − e_c‖² over both levels."""
    made = dictionary()
    reconstruction, commitment, quantized = made.loss(VECTORS, 0.25)
    z = made.encode(VECTORS)
    codes = made.codes_of(VECTORS)
    first, second = (made.quantizer.codes(level)[codes[:, level]] for level in range(2))
    decoded = made.decode(first + second)
    torch.testing.assert_close(reconstruction, (VECTORS - decoded).square().sum(1).mean())
    levels = (z - first).square().sum(1) + (z - first - second).square().sum(1)
    torch.testing.assert_close(commitment, 0.25 * levels.mean())
    assert torch.equal(quantized.codes_nC, codes)


def test_reconstruction_reaches_the_encoder_straight_through() -> None:
    """The gradient at z is the decoder's at the quantised point."""
    made = dictionary()
    reconstruction, _, _ = made.loss(VECTORS, 0.25)
    reconstruction.backward()
    found = [parameter.grad.clone() for parameter in made.encode.parameters()]
    assert all(gradient.abs().max() > 1e-4 for gradient in found)
    codes = made.codes_of(VECTORS)
    point = sum(made.quantizer.codes(level)[codes[:, level]] for level in range(2)).clone().requires_grad_()
    (at_point,) = torch.autograd.grad((VECTORS - made.decode(point)).square().sum(1).mean(), point)
    expected = torch.autograd.grad(made.encode(VECTORS), list(made.encode.parameters()), at_point)
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_commitment_reaches_the_encoder_from_both_levels() -> None:
    """2 β ((z − e1) + (z − e1 − e2)) / n at z; the decoder gets nothing."""
    made = dictionary()
    _, commitment, _ = made.loss(VECTORS, 0.25)
    commitment.backward()
    codes, z = made.codes_of(VECTORS), made.encode(VECTORS)
    first, second = (made.quantizer.codes(level)[codes[:, level]] for level in range(2))
    one, two = ((z - first) * 0.5 / 50).detach(), ((z - first - second) * 0.5 / 50).detach()
    parameters = list(made.encode.parameters())
    level_one = torch.autograd.grad(z, parameters, one, retain_graph=True)
    level_two = torch.autograd.grad(z, parameters, two)
    for parameter, a, b in zip(parameters, level_one, level_two, strict=True):
        torch.testing.assert_close(parameter.grad, a + b)
    assert max(float(gradient.abs().max()) for gradient in level_two) > 1e-4, "level 2 has a say"
    assert all(parameter.grad is None for parameter in made.decode.parameters())


def test_item_vectors_get_no_gradient_into_the_codes() -> None:
    made = dictionary()
    learned = {name for name, _ in made.named_parameters()}
    assert learned
    assert not any(name.startswith("quantizer") for name in learned)
    with torch.no_grad():
        before = made.cell_embeddings().clone()
    reconstruction, commitment, _ = made.loss(VECTORS, 0.25)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    (reconstruction + commitment).backward()
    optimizer.step()
    assert torch.equal(made.cell_embeddings(), before)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_cells_and_codes_are_one_to_one(sizes: list[int]) -> None:
    made = InterestDictionary(replace(CONFIG, sizes=tuple(sizes)))
    assert made.num_cells == math.prod(sizes)
    codes = made.cell_codes()
    assert codes.shape == (made.num_cells, len(sizes))
    assert torch.equal(made.cell_index(codes), torch.arange(made.num_cells))
    assert len({tuple(row) for row in codes.tolist()}) == made.num_cells
    assert (codes < torch.tensor(sizes)).all()
    # Level 1 first: its code changes slowest.
    assert torch.equal(codes[:, 0], torch.arange(made.num_cells) // math.prod(sizes[1:]))


def test_a_cell_is_the_concatenation_of_its_codes() -> None:
    made = dictionary()
    embeddings = made.cell_embeddings()
    assert embeddings.shape == (12, 8)
    for cell, (first, second) in enumerate((a, b) for a in range(3) for b in range(4)):
        expected = torch.cat([made.quantizer.codes(0)[first], made.quantizer.codes(1)[second]])
        assert torch.equal(embeddings[cell], expected)
        assert made.label(cell) == f"{first}-{second}"


def test_a_new_item_gets_its_cell_from_its_vector_alone() -> None:
    made = dictionary()
    together = made.cell_index(made.codes_of(VECTORS))
    assert len(together.unique()) > 3
    for item in range(0, 50, 7):
        assert made.cell_index(made.codes_of(VECTORS[item : item + 1])).item() == together[item]


@pytest.mark.parametrize("change", ["code", "encoder", "decoder", "parent"])
def test_the_version_changes_with_the_content(change: str) -> None:
    made = dictionary()
    version = made.version
    assert version == made.version
    assert len(version) == 16
    assert int(version, 16) >= 0
    if change == "parent":
        other = InterestDictionary(replace(CONFIG, parent=version))
        other.load_state_dict(made.state_dict())
        assert other.version != version
        return
    with torch.no_grad():
        if change == "code":
            made.quantizer.codes(1)[2, 0] += 1e-6
        else:
            next((made.encode if change == "encoder" else made.decode).parameters())[0, 0] += 1e-4
    assert made.version != version


def test_save_and_load_keep_version_and_cells(tmp_path: Path) -> None:
    made = dictionary(replace(CONFIG, parent="0123456789abcdef"))
    made.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, InterestDictionary)
    assert loaded.version == made.version
    assert loaded.sizes == made.sizes
    assert torch.equal(loaded.codes_of(VECTORS), made.codes_of(VECTORS))
    assert torch.equal(loaded.cell_embeddings(), made.cell_embeddings())
    assert loaded.config == made.config, "sizes come back as the tuple they were"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 4), st.integers(1, 60))
@example(65_536, 3, 16)  # a whole root that floating point misses
def test_sizes_are_the_largest_that_leave_enough_items_a_cell(items: int, levels: int, per_cell: int) -> None:
    sizes = sizes_for(items, levels, per_cell)
    assert len(sizes) == levels
    assert len(set(sizes)) == 1
    size = sizes[0]
    assert size >= 2
    if size > 2:
        assert size**levels * per_cell <= items
    assert (size + 1) ** levels * per_cell > items


def test_sizes_of_round_numbers() -> None:
    assert sizes_for(3416, 2, 20) == (13, 13)
    assert sizes_for(20_000, 3, 20) == (10, 10, 10)
    assert sizes_for(5, 2, 20) == (2, 2)


def test_a_stamp_says_its_version_after_saving(tmp_path: Path) -> None:
    write_tensors(tmp_path / "cells.safetensors", {"cells": VECTORS.numpy(), **stamp("0123456789abcdef")})
    assert stamped_version(load_file(tmp_path / "cells.safetensors")) == "0123456789abcdef"
    assert stamped_version({"cells": VECTORS}) == "no version"


def test_versions_that_differ_are_refused_by_name() -> None:
    check_version("item cells", "aaaa", "aaaa", "here")
    with pytest.raises(LineageError, match=r"item cells.*aaaa.*bbbb"):
        check_version("item cells", "aaaa", "bbbb", "here")
