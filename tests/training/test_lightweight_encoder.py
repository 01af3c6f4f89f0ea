"""Training of item tower and lightweight encoder: columns, targets, dropped residuals, learning."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.small import DIM, item_vectors
from prismrec.models.item_tower import ItemTower, ItemTowerConfig
from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig
from prismrec.models.rankers import LightweightEncoderRanker
from prismrec.training import lightweight_encoder as module
from prismrec.training.lightweight_encoder import LightweightEncoderTask
from prismrec.training.loop import fit
from training.small import NUM_ITEMS, Walks, encoder_parameters, next_item, random_lengths, training

TEXT_DIM = 10
COLD = [28, 29]


def task(world: Walks, **changes: Any) -> LightweightEncoderTask:
    torch.manual_seed(0)
    parameters = encoder_parameters(**changes)
    tower = ItemTower(ItemTowerConfig(NUM_ITEMS, TEXT_DIM, DIM))
    nn.init.normal_(tower.residual_ND)
    encoder = LightweightEncoder(
        LightweightEncoderConfig(DIM, parameters.num_interests, 12, 3, 0.1, parameters.long_length)
    )
    trained = np.ones(NUM_ITEMS, dtype=bool)
    trained[COLD] = False
    text = item_vectors(NUM_ITEMS, TEXT_DIM, seed=4)
    return LightweightEncoderTask(tower, encoder, text, trained, world.data(), parameters)


class Observed:
    """Everything a loss computes with: columns asked for, targets, item vectors kept."""

    def __init__(self, made: LightweightEncoderTask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, tuple[Any, ...]] = {}
        after, tower = made.encoder.after, made.tower.forward

        def labelled(items: Any, events: Any, columns: torch.Tensor) -> torch.Tensor:
            self.calls["after"] = (items, events, columns)
            label = torch.zeros(*columns.shape, made.parameters.num_interests, DIM)
            label[..., 0] = torch.arange(len(columns))[:, None, None]
            label[..., 1] = columns[..., None]
            return label + 0 * after(items, events, columns)

        def kept(text: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            self.calls["tower"] = (keep,)
            return tower(text, keep)

        monkeypatch.setattr(made.encoder, "after", labelled)
        monkeypatch.setattr(made.tower, "forward", kept)
        for name in ("merged_cross_entropy", "dmil_loss"):
            monkeypatch.setattr(module, name, self._spy(name, getattr(module, name)))

    def _spy(self, name: str, real: Any) -> Any:
        def wrapped(*arguments: Any) -> torch.Tensor:
            self.calls[name] = arguments
            return real(*arguments)

        return wrapped


def test_crops_hold_every_user_once_and_training_events_only() -> None:
    world = Walks(random_lengths(80, longest=28))
    made = task(world)
    batches = made.epoch(np.random.default_rng(0))
    seen = [entry for batch in batches for entry in zip(*(part.tolist() for part in batch), strict=True)]
    assert sorted(user for user, _, _ in seen) == np.flatnonzero(world.train_ends >= 2).tolist()
    for user, start, end in seen:
        events = int(world.train_ends[user])
        assert 0 <= start < end <= events
        assert end - start == min(events, 8)


def test_every_position_predicts_the_event_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Walks(random_lengths(60, longest=20))
    made = task(world)
    observed = Observed(made, monkeypatch)
    for batch in made.epoch(np.random.default_rng(0)):
        made.loss(batch)
        crop = made.data.cut(batch)
        rows, targets = observed.calls["merged_cross_entropy"][:2]
        pairs = []
        for row, target in zip(rows[:, 0], targets, strict=True):
            user, column = int(row[0]), int(row[1])
            assert crop.mask_BL[user, column]
            assert target == next_item(crop.items_BL[user, column])
            pairs.append((user, column))
        assert len(set(pairs)) == len(pairs), "a position counts twice"
        # The budget covers this small batch: all positions with a next event are used.
        assert len(pairs) == int(crop.mask_BL[:, :-1].sum())


def test_matching_targets_follow_the_cut_and_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Walks(random_lengths(60, longest=28))
    made = task(world)
    observed = Observed(made, monkeypatch)
    firsts: dict[int, set[int]] = {}
    for seed in range(8):
        for batch in made.epoch(np.random.default_rng(seed)):
            made.loss(batch)
            crop = made.data.cut(batch)
            interests, targets_BW, mask_BW = observed.calls["dmil_loss"][:3]
            for row in range(len(targets_BW)):
                events = crop.items_BL[row][crop.mask_BL[row]].tolist()
                label = interests[row, 0]
                assert int(label[0]) == row
                padding = crop.mask_BL.shape[1] - len(events)
                read = events[: int(label[1]) - padding + 1]  # what the matched interests may see
                found = targets_BW[row][mask_BW[row]].tolist()
                assert len(found) == min(3, len(events) // 2), "W_u = min(W, n // 2)"
                assert len(read) >= 1
                assert found == events[len(read) : len(read) + len(found)]
                assert not set(found) & set(read)
                firsts.setdefault(int(batch.users_B[row]), set()).add(len(read))
    redrawn = [len(cuts) for user, cuts in firsts.items() if world.train_ends[user] >= 6]
    assert min(redrawn) > 1, "cuts are drawn anew"


def test_the_number_of_positions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(Walks([20] * 16), training=training(positions_per_step=32))
    observed = Observed(made, monkeypatch)
    made.loss(made.epoch(np.random.default_rng(0))[0])
    assert len(observed.calls["merged_cross_entropy"][0]) == 32


def test_whole_items_lose_their_residual_and_cold_ones_never_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(Walks(random_lengths()), residual_dropout=0.25)
    observed = Observed(made, monkeypatch)
    kept = []
    for seed in range(40):
        made.loss(made.epoch(np.random.default_rng(seed))[0])
        kept.append(observed.calls["tower"][0])
    share = torch.stack(kept).float().mean(0)
    assert share[COLD].tolist() == [0, 0]
    warm = np.delete(share.numpy(), COLD)
    assert warm.mean() == pytest.approx(0.75, abs=0.04)
    assert warm.max() < 1, "every item is dropped now and then"
    made.item_vectors()
    assert observed.calls["tower"][0].tolist() == [item not in COLD for item in range(NUM_ITEMS)]


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_total_is_the_weighted_sum(weight: float) -> None:
    made = task(Walks(random_lengths()), matching_weight=weight)
    loss = made.loss(made.epoch(np.random.default_rng(0))[0])
    torch.testing.assert_close(loss.total, loss.parts["next_item"] + weight * loss.parts["matching"])


def test_tower_and_encoder_learn_together() -> None:
    made = task(Walks(random_lengths()))
    made.loss(made.epoch(np.random.default_rng(0))[0]).total.backward()
    for name, parameter in made.module.named_parameters():
        if name in ("tower.gain", "tower.log_sharpness"):  # nobody lends: this tower has looked up no neighbours
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert made.tower.projection.weight.grad.abs().max() > 0
    assert made.encoder.value.weight.grad.abs().max() > 0


def weights(trained: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trained.state_dict().items()}


def test_it_learns_where_walks_go() -> None:
    """In 14 short epochs the loss halves and the validation event stands far above chance (about 0.2 here)."""
    results = []
    for _ in range(2):
        made = task(Walks(random_lengths(120)), training=training(epochs=14, patience=14, learning_rate=0.02))
        curve = fit(made, made.parameters.training, seed=0)
        results.append((weights(made.module), [record.as_dict() for record in curve]))
    assert curve[-1].loss < 0.5 * curve[0].loss
    assert max(record.validation["ndcg@10"] for record in curve) > 0.6
    assert results[0] == results[1], "one seed, one result, to the byte"


def test_lifted_untrained_items_score_higher_on_average_and_others_as_before() -> None:
    made = task(Walks(random_lengths()))
    before = made.item_vectors().detach().clone()
    made.module.eval()
    made.lift_untrained(0.5)
    after = made.item_vectors().detach()
    warm = [item for item in range(NUM_ITEMS) if item not in COLD]
    assert torch.equal(after[warm], before[warm])
    users, ends = torch.arange(20), torch.as_tensor(made.data.train_ends_U[:20])
    ranker = LightweightEncoderRanker(made.encoder, before, made.data.recommendable_N)
    with torch.no_grad():
        interests = ranker.interest_vectors(made.data.events, users, ends)
    assert (interests @ (after - before)[COLD].T).mean() > 0.05
    torch.testing.assert_close(made.tower.lift_D.norm(), torch.tensor(0.5))


def test_comirecs_pooling_learns_too() -> None:
    made = task(Walks(random_lengths(120)), training=training(epochs=6, patience=6, learning_rate=0.02))
    made.encoder = LightweightEncoder(LightweightEncoderConfig(DIM, 2, 12, 3, 0.1, 20, positions=8))
    made.module["encoder"] = made.encoder
    curve = fit(made, made.parameters.training, seed=0)
    assert curve[-1].loss < 0.8 * curve[0].loss
