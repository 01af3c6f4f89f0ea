"""ComiRec-SA: the published formula, prefixes, padding, its start, its folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.small import DIM, NUM_ITEMS, event_table, item_vectors, randomise
from prismrec.models import load_model
from prismrec.models.comirec import ComiRec, ComiRecConfig
from prismrec.models.item_table import INITIAL_SCALE, MAX_SCALE

LENGTH = 12
INTERESTS = 3


def untrained(seed: int = 0) -> ComiRec:
    torch.manual_seed(seed)
    return ComiRec(ComiRecConfig(NUM_ITEMS, DIM, INTERESTS, length=LENGTH, dropout=0.3))


def small_comirec(seed: int = 0) -> ComiRec:
    """A ComiRec with random weights everywhere."""
    model = untrained(seed)
    randomise(model, seed, spread=0.4)
    return model


def padded(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Items and mask of random histories."""
    ends = torch.tensor(lengths)
    batch = event_table(lengths, seed=seed).cut(torch.arange(len(lengths)), torch.zeros_like(ends), ends)
    return batch.items_BL, batch.mask_BL


@torch.no_grad()
def interests(model: ComiRec, items_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    return model(model.items()[items_BL], mask_BL)


@torch.no_grad()
def test_interests_are_those_of_the_paper() -> None:
    """V = softmax over events of W2 tanh(W1 (H + P)), times H; no padding, one user, plain matrices."""
    model, (items, mask) = small_comirec(), padded([9])
    events_LD = model.items()[items[0]]
    hidden = torch.tanh((events_LD + model.position_LD[:9]) @ model.hidden.weight.T + model.hidden.bias)
    attention_KL = (hidden @ model.query.weight.T).T.softmax(1)
    assert hidden.shape == (9, 4 * DIM)
    expected = F.normalize(attention_KL @ events_LD, dim=-1)
    torch.testing.assert_close(interests(model, items, mask)[0], expected, atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=4), st.integers(0, 1000))
@torch.no_grad()
def test_after_a_column_is_forward_on_the_cut_prefix(lengths: list[int], seed: int) -> None:
    model, (items, mask) = small_comirec(seed), padded(lengths, seed)
    width = items.shape[1]
    prefixes = model.after(model.items()[items], mask, torch.arange(width).expand(len(lengths), -1))
    for user, length in enumerate(lengths):
        for column in range(width - length, width):
            cut = slice(width - length, column + 1)
            alone = interests(model, items[user : user + 1, cut], mask[user : user + 1, cut])[0]
            torch.testing.assert_close(prefixes[user, column], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_columns_may_come_in_any_order_and_twice() -> None:
    model, (items, mask) = small_comirec(), padded([9, 9])
    read = model.items()[items], mask
    every = model.after(*read, torch.arange(9).expand(2, -1))
    chosen = torch.tensor([[8, 0, 3, 3], [2, 5, 5, 7]])
    expected = every.gather(1, chosen[..., None, None].expand(-1, -1, INTERESTS, DIM))
    torch.testing.assert_close(model.after(*read, chosen), expected)


@torch.no_grad()
def test_later_events_move_no_earlier_interest() -> None:
    model, (items, mask) = small_comirec(), padded([10, 10])
    columns = torch.arange(10).expand(2, -1)
    before = model.after(model.items()[items], mask, columns)
    for changed in range(10):
        other = items.clone()
        other[:, changed:] = (other[:, changed:] + 7) % NUM_ITEMS
        after = model.after(model.items()[other], mask, columns)
        torch.testing.assert_close(after[:, :changed], before[:, :changed], atol=1e-6, rtol=0)
        assert (after - before)[:, changed:].abs().amax((-1, -2)).min() > 1e-4, "every later prefix sees the event"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, LENGTH), min_size=2, max_size=5), st.integers(0, 1000))
def test_a_user_alone_gets_what_a_user_in_a_batch_gets(lengths: list[int], seed: int) -> None:
    model, (items, mask) = small_comirec(seed), padded(lengths)
    together = interests(model, items, mask)
    for user, length in enumerate(lengths):
        alone = interests(model, items[user : user + 1, -length:], mask[user : user + 1, -length:])
        torch.testing.assert_close(alone[0], together[user], atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=4), st.integers(0, 1000))
def test_interests_have_unit_length(lengths: list[int], seed: int) -> None:
    found = interests(small_comirec(seed), *padded(lengths, seed))
    assert found.shape == (len(lengths), INTERESTS, DIM)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(lengths), INTERESTS))


def test_interests_differ_and_a_single_event_is_all_of_them() -> None:
    model = small_comirec()
    found = interests(model, *padded([12]))[0]
    assert (found[0] - found[1]).abs().max() > 1e-2
    items, mask = padded([1])
    expected = model.items()[items[0]].detach().expand(INTERESTS, -1)
    torch.testing.assert_close(interests(model, items, mask)[0], expected)


def test_start_from_leaves_the_noise_of_items_without_transitions() -> None:
    model = untrained()
    noise = model.item_ND.detach().clone()
    start = item_vectors(seed=3).numpy()
    start[[0, 7]] = 0.0
    model.start_from(start)
    found = model.item_ND.detach()
    assert torch.equal(found[[0, 7]], noise[[0, 7]])
    others = np.delete(np.arange(NUM_ITEMS), [0, 7])
    assert np.array_equal(found[others].numpy(), start[others])
    torch.testing.assert_close(model.items().norm(dim=1), torch.ones(NUM_ITEMS))


def test_dropout_acts_in_training_only() -> None:
    model, read = small_comirec(), padded([8])
    assert torch.equal(interests(model, *read), interests(model, *read))
    model.train()
    assert not torch.equal(interests(model, *read), interests(model, *read))


def test_every_parameter_learns() -> None:
    """A gradient reaches each of them, also with a user of a single event in the batch."""
    model, (items, mask) = small_comirec(), padded([9, 1, LENGTH])
    vectors = model(model.items()[items], mask)
    (model.scale * vectors @ model.items().T).amax(1).log_softmax(-1)[:, 3].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name != "query.bias":  # the same for all events: the softmax over them takes it away
            assert parameter.grad.abs().max() > 0, name


def test_the_scale_starts_where_it_is_set_and_is_bounded() -> None:
    model = untrained()
    assert model.scale.item() == pytest.approx(INITIAL_SCALE)
    with torch.no_grad():
        model.log_scale.fill_(50.0)
    assert model.scale == MAX_SCALE


def test_save_and_load(tmp_path: Path) -> None:
    model, read = small_comirec(), padded([9, 4])
    model.save(tmp_path / "one")
    loaded = load_model(tmp_path / "one")
    assert isinstance(loaded, ComiRec)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(interests(loaded, *read), interests(model, *read))
    loaded.save(tmp_path / "two")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
