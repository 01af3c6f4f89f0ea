"""SASRec: nothing leaks from later events, padding changes nothing, its start, its folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.small import DIM, NUM_ITEMS, event_table, item_vectors, randomise
from prismrec.models import load_model
from prismrec.models.item_table import INITIAL_SCALE, MAX_SCALE
from prismrec.models.sasrec import SASRec, SASRecConfig

LENGTH = 12


def untrained(layers: int = 2, seed: int = 0) -> SASRec:
    torch.manual_seed(seed)
    return SASRec(SASRecConfig(NUM_ITEMS, DIM, layers, heads=2, length=LENGTH, dropout=0.3))


def small_sasrec(layers: int = 2, seed: int = 0) -> SASRec:
    """A SASRec with random weights everywhere."""
    model = untrained(layers, seed)
    randomise(model, seed)
    return model


def padded(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Items and mask of random histories."""
    ends = torch.tensor(lengths)
    batch = event_table(lengths, seed=seed).cut(torch.arange(len(lengths)), torch.zeros_like(ends), ends)
    return batch.items_BL, batch.mask_BL


@torch.no_grad()
def states(model: SASRec, items_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    return model(model.items()[items_BL], mask_BL)


def test_later_events_move_no_earlier_state() -> None:
    model, (items, mask) = small_sasrec(), padded([10, 10])
    before = states(model, items, mask)
    for changed in range(10):
        other = items.clone()
        other[:, changed:] = (other[:, changed:] + 7) % NUM_ITEMS
        after = states(model, other, mask)
        torch.testing.assert_close(after[:, :changed], before[:, :changed], atol=1e-6, rtol=0)
        assert (after - before)[:, changed:].abs().amax(-1).min() > 1e-3, "every later state sees the event"


def test_no_gradient_flows_from_a_state_to_a_later_event() -> None:
    model, (items, mask) = small_sasrec(), padded([10, 6])
    read = model.items()[items].detach().requires_grad_()
    model(read, mask)[:, 6].sum().backward()
    assert torch.equal(read.grad[:, 7:], torch.zeros(2, 3, DIM))
    assert torch.equal(read.grad[1, :4], torch.zeros(4, DIM)), "nor to padding"
    assert (read.grad[0, :7].abs().amax(-1) > 0).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, LENGTH), min_size=2, max_size=5), st.integers(0, 1000))
def test_a_user_alone_gets_what_a_user_in_a_batch_gets(lengths: list[int], seed: int) -> None:
    model, (items, mask) = small_sasrec(seed=seed), padded(lengths)
    together = states(model, items, mask)
    assert torch.isfinite(together).all(), "nor is padding NaN, which a gradient would spread"
    for user, length in enumerate(lengths):
        alone = states(model, items[user : user + 1, -length:], mask[user : user + 1, -length:])
        torch.testing.assert_close(alone[0], together[user, -length:], atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=4), st.integers(0, 1000))
def test_states_have_unit_length(lengths: list[int], seed: int) -> None:
    items, mask = padded(lengths, seed)
    found = states(small_sasrec(seed=seed), items, mask)[mask]
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(sum(lengths)))


def test_the_order_of_events_matters() -> None:
    model, (items, mask) = small_sasrec(), padded([8])
    swapped = items.clone()
    swapped[:, [0, 1]] = items[:, [1, 0]]
    assert (states(model, items, mask)[:, -1] - states(model, swapped, mask)[:, -1]).abs().max() > 1e-3


def test_an_untrained_state_is_its_own_item() -> None:
    """Blocks start as the identity: with spectral item vectors training starts from an item's neighbours."""
    model, (items, mask) = untrained().eval(), padded([7, 3])
    expected = F.normalize(F.layer_norm(model.items()[items], (DIM,)), dim=-1)
    torch.testing.assert_close(states(model, items, mask)[mask], expected[mask].detach(), atol=1e-5, rtol=0)


def test_start_from_leaves_the_noise_of_items_without_transitions() -> None:
    model = untrained()
    noise = model.item_ND.detach().clone()
    start = item_vectors(seed=3).numpy()
    start[[2, 5]] = 0.0
    model.start_from(start)
    found = model.item_ND.detach()
    assert torch.equal(found[[2, 5]], noise[[2, 5]])
    others = np.delete(np.arange(NUM_ITEMS), [2, 5])
    assert np.array_equal(found[others].numpy(), start[others])
    torch.testing.assert_close(model.items().norm(dim=1), torch.ones(NUM_ITEMS))
    assert model.item_ND.requires_grad


def test_dropout_acts_in_training_only() -> None:
    model, (items, mask) = small_sasrec(), padded([8])
    assert torch.equal(states(model, items, mask), states(model, items, mask))
    model.train()
    assert not torch.equal(states(model, items, mask), states(model, items, mask))


def test_every_parameter_learns() -> None:
    """A gradient reaches each of them, also with a user of a single event in the batch."""
    model, (items, mask) = small_sasrec(), padded([9, 1, LENGTH])
    logits = model.scale * model(model.items()[items], mask)[:, -1] @ model.items().T
    logits.log_softmax(-1)[:, 3].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_scale_starts_where_it_is_set_and_is_bounded() -> None:
    model = untrained()
    assert model.scale.item() == pytest.approx(INITIAL_SCALE)
    with torch.no_grad():
        model.log_scale.fill_(50.0)
    assert model.scale == MAX_SCALE


def test_save_and_load(tmp_path: Path) -> None:
    model, (items, mask) = small_sasrec(), padded([9, 4])
    model.save(tmp_path / "one")
    loaded = load_model(tmp_path / "one")
    assert isinstance(loaded, SASRec)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(states(loaded, items, mask), states(model, items, mask))
    loaded.save(tmp_path / "two")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
