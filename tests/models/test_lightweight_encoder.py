"""Lightweight encoder: prefixes, padding, causality, its start, its cost."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models.small import DIM, event_table, item_vectors, randomise, small_encoder
from prismrec.models import load_model
from prismrec.models.events import EventBatch
from prismrec.models.lightweight_encoder import MAX_SCALE, LightweightEncoder, LightweightEncoderConfig

ITEMS = item_vectors()


def whole(lengths: list[int], seed: int = 0) -> EventBatch:
    ends = torch.tensor(lengths)
    return event_table(lengths, seed=seed).cut(torch.arange(len(lengths)), torch.zeros_like(ends), ends)


def interests(encoder: LightweightEncoder, batch: EventBatch) -> torch.Tensor:
    return encoder(ITEMS[batch.items_BL], batch)


def first_columns(batch: EventBatch, columns: int) -> EventBatch:
    return EventBatch(*(part[:, :columns] for part in batch))


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_after_a_column_is_forward_on_the_truncated_history(kernel: int) -> None:
    encoder, batch = small_encoder(kernel=kernel), whole([12, 12, 12])
    columns = torch.arange(12).expand(3, -1)
    prefixes = encoder.after(ITEMS[batch.items_BL], batch, columns)
    for column in range(12):
        alone = interests(encoder, first_columns(batch, column + 1))
        torch.testing.assert_close(prefixes[:, column], alone, atol=1e-5, rtol=0)


def test_columns_may_come_in_any_order_and_twice() -> None:
    encoder, batch = small_encoder(), whole([9, 9])
    read = ITEMS[batch.items_BL], batch
    all_columns = encoder.after(*read, torch.arange(9).expand(2, -1))
    chosen = torch.tensor([[8, 0, 3, 3], [2, 5, 5, 7]])
    expected = all_columns.gather(1, chosen[..., None, None].expand(-1, -1, 3, DIM))
    torch.testing.assert_close(encoder.after(*read, chosen), expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 14), min_size=2, max_size=5), st.sampled_from([1, 3, 7]))
def test_histories_read_together_give_what_padded_ones_give(lengths: list[int], kernel: int) -> None:
    encoder, batch = small_encoder(kernel=kernel), whole([*lengths, 3])
    items_BLD = ITEMS[batch.items_BL]
    together, padded = encoder._read_packed(items_BLD, batch), encoder._read(items_BLD, batch)
    for mine, its in zip(together, padded, strict=True):
        torch.testing.assert_close(mine[batch.mask_BL], its[batch.mask_BL], atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 14), min_size=1, max_size=5).filter(any), st.sampled_from([1, 4]))
def test_histories_are_read_from_as_few_places_as_slots_says(lengths: list[int], kernel: int) -> None:
    encoder = small_encoder(kernel=kernel)
    places: list[int] = []
    encoder.event_norm.register_forward_hook(lambda _, inputs, __: places.append(inputs[0].shape[:2].numel()))
    interests(encoder, whole(lengths))
    padded, packed = len(lengths) * max(lengths), sum(length + kernel - 1 for length in lengths if length)
    assert places == [encoder.slots(torch.tensor(lengths))] == [min(padded, packed)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=2, max_size=5), st.integers(0, 1000))
def test_a_user_alone_gets_what_a_user_in_a_batch_gets(lengths: list[int], seed: int) -> None:
    """Padding changes nothing, neither in a trained model, whose biases are not zero."""
    encoder, table = small_encoder(seed=seed), event_table(lengths)
    ends = torch.tensor(lengths)
    batch = table.cut(torch.arange(len(lengths)), torch.zeros_like(ends), ends)
    together = interests(encoder, batch)
    for user, length in enumerate(lengths):
        alone = table.cut(torch.tensor([user]), torch.tensor([0]), torch.tensor([length]))
        torch.testing.assert_close(interests(encoder, alone)[0], together[user], atol=1e-5, rtol=0)


def test_later_events_move_no_earlier_interest() -> None:
    encoder, batch = small_encoder(), whole([10, 10])
    columns = torch.arange(10).expand(2, -1)
    before = encoder.after(ITEMS[batch.items_BL], batch, columns)
    for changed in range(10):
        items, gaps = batch.items_BL.clone(), batch.gaps_BL.clone()
        items[:, changed:] = (items[:, changed:] + 7) % len(ITEMS)
        gaps[:, changed:] = (gaps[:, changed:] + 5) % 20
        after = encoder.after(ITEMS[items], batch._replace(gaps_BL=gaps), columns)
        torch.testing.assert_close(after[:, :changed], before[:, :changed], atol=1e-6, rtol=0)
        assert (after - before)[:, changed:].abs().amax((-1, -2)).min() > 1e-3, "every later prefix sees the event"


def test_gaps_are_read() -> None:
    encoder, batch = small_encoder(), whole([10])
    other = batch._replace(gaps_BL=(batch.gaps_BL + 3) % 20)
    assert (interests(encoder, batch) - interests(encoder, other)).abs().max() > 1e-3


def test_the_time_of_the_request_is_read_at_its_own_column() -> None:
    encoder, batch = small_encoder(), whole([10, 10])
    columns = torch.arange(10).expand(2, -1)
    before = encoder.after(ITEMS[batch.items_BL], batch, columns)
    for changed in (0, 4, 9):
        until = batch.until_BL.clone()
        until[:, changed] = (until[:, changed] + 5) % 20
        move_BQ = (encoder.after(ITEMS[batch.items_BL], batch._replace(until_BL=until), columns) - before).abs()
        move_BQ = move_BQ.amax((-1, -2))
        assert move_BQ[:, changed].min() > 1e-4
        move_BQ[:, changed] = 0
        assert not move_BQ.any()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 1000))
def test_interests_have_unit_length(lengths: list[int], seed: int) -> None:
    found = interests(small_encoder(seed=seed), whole(lengths, seed))
    assert found.shape == (len(lengths), 3, DIM)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(lengths), 3))


def test_an_untrained_interest_is_the_decayed_mean_of_item_vectors() -> None:
    """Which makes an untrained encoder on spectral item vectors a decayed Markov model."""
    torch.manual_seed(0)
    encoder = LightweightEncoder(LightweightEncoderConfig(DIM, 3, 12, kernel=3, dropout=0.3, length=100)).eval()
    batch = whole([11, 11])
    age = torch.arange(10, -1, -1).float()
    weight = torch.exp(-encoder.log_decay.exp()[:, None] * age)
    expected = F.normalize(torch.einsum("kl,bld->bkd", weight, ITEMS[batch.items_BL]), dim=-1)
    torch.testing.assert_close(interests(encoder, batch), expected, atol=1e-5, rtol=0)
    assert weight[0, 5] < 0.1 * weight[-1, 5], "the queries differ in how long they remember"


def test_cost_is_linear_in_the_length() -> None:
    encoder = small_encoder()

    def operations(length: int) -> int:
        batch = whole([length, length])
        with FlopCounterMode(display=False) as counter:
            interests(encoder, batch)
        return counter.get_total_flops()

    short, middle, long = (operations(length) for length in (200, 400, 800))
    assert (long - middle) == 2 * (middle - short)


def test_ten_thousand_events() -> None:
    found = interests(small_encoder(), whole([10_000, 5]))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 3))


def test_dropout_acts_in_training_only() -> None:
    encoder, batch = small_encoder(), whole([8])
    assert torch.equal(interests(encoder, batch), interests(encoder, batch))
    encoder.train()
    assert not torch.equal(interests(encoder, batch), interests(encoder, batch))


def test_every_parameter_learns() -> None:
    """A gradient reaches each of them, also with a user of a single event in the batch."""
    encoder, batch = small_encoder(), whole([9, 1, 14])
    scores = encoder.interest_scores(interests(encoder, batch), ITEMS).logsumexp(1)
    scores.log_softmax(-1)[:, 3].sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name != "key.bias":  # the same for all events: the softmax over them takes it away
            assert parameter.grad.abs().max() > 0, name


def test_scores_are_scaled_cosines_and_the_scale_is_bounded() -> None:
    encoder, batch = small_encoder(), whole([6])
    found = interests(encoder, batch)
    expected = encoder.log_scale.exp() * torch.einsum("bkd,nd->bkn", found, ITEMS)
    torch.testing.assert_close(encoder.interest_scores(found, ITEMS), expected)
    with torch.no_grad():
        encoder.log_scale.fill_(50.0)
    assert encoder.scale == MAX_SCALE


def comirec_encoder(positions: int = 20) -> LightweightEncoder:
    torch.manual_seed(1)
    config = LightweightEncoderConfig(DIM, 3, 12, kernel=3, dropout=0.3, length=100, positions=positions)
    encoder = LightweightEncoder(config)
    randomise(encoder, 1)
    return encoder


@torch.no_grad()
def test_comirecs_pooling_is_that_of_the_paper() -> None:
    """V = softmax over events of W2 tanh(W1 (H + P)), times H; no padding, one user, plain matrices."""
    encoder, batch = comirec_encoder(), whole([9])
    items = ITEMS[batch.items_BL]
    values_LD = (items + encoder.value(encoder.value_norm(encoder._events(items, batch.gaps_BL, batch.mask_BL))))[0]
    hidden = torch.tanh((values_LD + encoder.position_PD[:9]) @ encoder.attention.weight.T + encoder.attention.bias)
    assert hidden.shape == (9, 4 * DIM)
    pooled_KD = (hidden @ encoder.query.weight.T).T.softmax(1) @ values_LD
    refined_BQKD = encoder._refine(pooled_KD[None, None], batch.until_BL[:, -1:])
    torch.testing.assert_close(encoder(items, batch)[0], refined_BQKD[0, 0])


@torch.no_grad()
def test_comirecs_pooling_after_a_column_is_forward_on_the_truncated_history() -> None:
    encoder, batch = comirec_encoder(positions=5), whole([12, 7])  # later events share the last position
    columns = torch.arange(12).expand(2, -1)
    prefixes = encoder.after(ITEMS[batch.items_BL], batch, columns)
    for column in (5, 8, 11):
        alone = interests(encoder, first_columns(batch, column + 1))
        torch.testing.assert_close(prefixes[:, column], alone, atol=1e-5, rtol=0)


def test_comirecs_pooling_saves_and_loads(tmp_path: Path) -> None:
    encoder, batch = comirec_encoder(), whole([9, 4])
    encoder.save(tmp_path)
    assert torch.equal(interests(load_model(tmp_path), batch), interests(encoder, batch))


def test_save_and_load(tmp_path: Path) -> None:
    encoder, batch = small_encoder(), whole([9, 4])
    encoder.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, LightweightEncoder)
    assert loaded.config == encoder.config
    assert not loaded.training
    assert torch.equal(interests(loaded, batch), interests(encoder, batch))
