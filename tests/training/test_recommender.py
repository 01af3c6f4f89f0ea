"""Training of the LLM recommender: cuts, targets that never overlap with the input, three losses, learning."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.small import DIM, item_vectors, small_encoder
from prismrec.models import backbone
from prismrec.models.events import EventTable
from prismrec.models.rankers import RecommenderRanker, RefinedState
from prismrec.models.recommender import Recommender, RecommenderConfig, Refined
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.training import recommender as module
from prismrec.training.loop import fit
from prismrec.training.recommender import RecommenderTask
from training.small import NUM_ITEMS, Walks, next_item, random_lengths, recommender_parameters, training

ITEMS = item_vectors(NUM_ITEMS)


def ranker(parameters: LLMRecommenderParameters) -> RecommenderRanker:
    torch.manual_seed(0)
    longest = parameters.recent_length + parameters.num_interests + 3
    decoder = backbone.from_pretrained(
        "scratch", backbone.scratch_config(parameters.hidden, parameters.layers, parameters.heads, 0.1, longest)
    )
    config = RecommenderConfig(
        DIM, parameters.num_interests, parameters.recent_length, parameters.long_length, False, 0.1, "scratch",
        num_items=NUM_ITEMS if parameters.item_offset_rate else 0, now=parameters.teaches_now,
    )  # fmt: skip
    recommender = Recommender(config, small_encoder(), decoder)
    return RecommenderRanker(recommender, ITEMS, ITEMS, ITEMS, torch.ones(NUM_ITEMS, dtype=torch.bool))


def task(world: Walks, **changes: Any) -> RecommenderTask:
    parameters = recommender_parameters(**changes)
    return RecommenderTask(ranker(parameters), world.data(), parameters)


def cuts(made: RecommenderTask, seed: int = 0) -> list[tuple[int, int, int]]:
    """(user, cut, targets ahead) of one epoch."""
    batches = made.epoch(np.random.default_rng(seed))
    return [entry for batch in batches for entry in zip(*(part.tolist() for part in batch), strict=True)]


@pytest.mark.parametrize("window", [1, 4, 10])
def test_every_user_once_with_half_of_a_short_history_as_targets(window: int) -> None:
    world = Walks(random_lengths(80, longest=28))
    found = cuts(task(world, target_window=window))
    assert sorted(user for user, _, _ in found) == np.flatnonzero(world.train_ends >= 2).tolist()
    for user, cut, ahead in found:
        events = int(world.train_ends[user])
        assert ahead == min(window, events // 2, events - cut)
        assert ahead >= 1
        assert cut >= 1, "something to read"
        assert cut + ahead <= events, "validation and test events are never targets"


@pytest.mark.parametrize("events", [5, 8, 27])
def test_cuts_are_drawn_anew_each_epoch(events: int) -> None:
    """Also in short histories, of which most catalogues have most: else half their events are never predicted."""
    made = task(Walks([events + 2]))
    seen = {cut for seed in range(40) for _, cut, _ in cuts(made, seed)}
    assert len(seen) > 1
    assert max(seen) >= events - min(4, events // 2)


class Labelled:
    """A ranker whose outputs say where they come from: vectors are (user of the batch, column, kind)."""

    def __init__(self, world: Walks, made: RecommenderTask) -> None:
        self.real, self.world, self.made = made.ranker, world, made
        self.recommender, self.items_ND = made.recommender, made.items_ND
        self.inputs: list[tuple[EventTable, torch.Tensor, torch.Tensor]] = []

    def state(self, events: EventTable, users: torch.Tensor, ends: torch.Tensor) -> RefinedState:
        self.inputs.append((events, users, ends))
        recent, refined = self.real.state(events, users, ends)
        batch, length = recent.items_BL.shape
        label = torch.zeros(batch, length, DIM)
        label[..., 0], label[..., 1] = torch.arange(batch)[:, None], torch.arange(length)
        return RefinedState(recent, Refined(refined.refined_BKD, label, refined.gate_BK1))


def spy(monkeypatch: pytest.MonkeyPatch, name: str, calls: dict[str, tuple[Any, ...]]) -> None:
    real: Callable[..., torch.Tensor] = getattr(module, name)

    def wrapped(*arguments: Any) -> torch.Tensor:
        calls[name] = arguments
        return real(*arguments)

    monkeypatch.setattr(module, name, wrapped)


def test_targets_follow_the_input_and_never_overlap_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a walk no item occurs twice: an overlap of events would be one of items."""
    world = Walks(random_lengths(60, longest=28))
    made = task(world)
    made.ranker = Labelled(world, made)  # type: ignore[assignment]
    calls: dict[str, tuple[Any, ...]] = {}
    for name in ("dmil_loss", "catalogue_cross_entropy", "merged_cross_entropy"):
        spy(monkeypatch, name, calls)
    for batch in made.epoch(np.random.default_rng(0)):
        made.loss(batch)
        events, users, ends = made.ranker.inputs[-1]
        assert events is made.data.training_events
        assert torch.equal(users, batch.users_B)
        assert torch.equal(ends, batch.cuts_B), "the input ends where the targets begin"
        targets_BW, mask_BW = calls["dmil_loss"][1:3]
        first_B = calls["merged_cross_entropy"][1]
        for row, (user, cut, ahead) in enumerate(zip(*(part.tolist() for part in batch), strict=True)):
            own = world.of(user).tolist()
            found = targets_BW[row][mask_BW[row]].tolist()
            assert found == own[cut : cut + ahead]
            assert not set(found) & set(own[:cut])
            assert first_B[row] == own[cut]
        vectors_PD, targets_P = calls["catalogue_cross_entropy"][:2]
        recent = made.ranker.real.state(events, users, ends).recent
        for vector, target in zip(vectors_PD, targets_P, strict=True):
            row, column = int(vector[0]), int(vector[1])
            assert recent.mask_BL[row, column]
            assert target == next_item(recent.items_BL[row, column]), "each position predicts the event after it"
        assert len(vectors_PD) == min(recent.mask_BL.sum(), 256)


def test_positions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(Walks([20] * 16), training=training(positions_per_step=10))
    calls: dict[str, tuple[Any, ...]] = {}
    spy(monkeypatch, "catalogue_cross_entropy", calls)
    made.loss(made.epoch(np.random.default_rng(0))[0])
    assert len(calls["catalogue_cross_entropy"][0]) == 10


@pytest.mark.parametrize(
    ("matching", "next_weight", "merge_weight"), [(1.0, 0.0, 0.0), (1.0, 2.0, 0.25), (0.0, 1.0, 0.5)]
)
def test_the_total_is_the_weighted_sum(matching: float, next_weight: float, merge_weight: float) -> None:
    """1, 0 and 0 leave the paper's loss alone."""
    weights = {"matching_weight": matching, "next_item_weight": next_weight, "merge_weight": merge_weight}
    made = task(Walks(random_lengths()), **weights)
    loss = made.loss(made.epoch(np.random.default_rng(0))[0])
    assert set(loss.parts) == {"matching", "next_item", "merge"}
    assert all(torch.isfinite(part) and part > 0 for part in loss.parts.values())
    weighted = next_weight * loss.parts["next_item"] + merge_weight * loss.parts["merge"]
    torch.testing.assert_close(loss.total, matching * loss.parts["matching"] + weighted)


@pytest.mark.parametrize("kind", ["sampled", "in_batch"])
def test_negatives_estimate_the_full_losses(kind: str) -> None:
    """Walks: all items alike. In the batch a user's own targets are masked, which only lowers the loss."""
    world = Walks(random_lengths(120))
    full = task(world, item_offset_rate=0.0)
    batch = full.epoch(np.random.default_rng(0))[0]
    made = task(world, negatives=kind, item_offset_rate=0.0, num_negatives=100_000, negative_exponent=0.0)
    made.module.eval(), full.module.eval()
    expected, found = full.loss(batch), made.loss(batch)
    for name, part in expected.parts.items():
        if kind == "sampled":
            torch.testing.assert_close(found.parts[name], part, atol=0.01, rtol=0)
        else:
            assert 0 < found.parts[name] < part * 1.1


def test_in_the_batch_negatives_are_the_targets_of_all_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Walks(random_lengths(60, longest=28))
    made = task(world, negatives="in_batch", item_offset_rate=0.0)
    calls: dict[str, tuple[Any, ...]] = {}
    spy(monkeypatch, "dmil_loss", calls)
    batch = made.epoch(np.random.default_rng(0))[0]
    made.loss(batch)
    negatives = calls["dmil_loss"][-1]
    own = [set() for _ in batch.users_B]
    for row, (user, cut, ahead) in enumerate(zip(*(part.tolist() for part in batch), strict=True)):
        own[row] = set(world.of(user)[max(cut - 6, 0) + 1 : cut + ahead].tolist())
    assert set(negatives.items_M.tolist()) == set.union(*own)
    for row, mine in enumerate(own):
        assert set(negatives.items_M[negatives.own_BM[row]].tolist()) == mine
    counts = np.bincount(
        np.concatenate([world.of(u)[: world.train_ends[u]] for u in range(len(world.lengths))]), minlength=NUM_ITEMS
    )
    torch.testing.assert_close(made.share_N, torch.from_numpy(counts / counts.sum()).float())


@pytest.mark.parametrize("kind", ["sampled", "in_batch"])
def test_bounded_negatives_and_offsets_are_refused_together(kind: str) -> None:
    """Offsets take each step through the whole catalogue, whatever the losses look at."""
    with pytest.raises(ValidationError, match="item_offset_rate: 0, or negatives: full"):
        recommender_parameters(negatives=kind, item_offset_rate=0.1)


def test_item_vectors_are_frozen_and_everything_else_learns() -> None:
    made = task(Walks(random_lengths(60, longest=28)))
    assert not made.items_ND.requires_grad
    made.loss(made.epoch(np.random.default_rng(0))[0]).total.backward()
    silent = {"encoder.key.bias", "encoder.log_scale", "gate.bias", "backbone.embed_tokens.weight"}
    for name, parameter in made.module.named_parameters():
        if name not in silent and parameter.grad is None:
            pytest.fail(f"{name} does not learn")
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name


def test_offsets_of_items_that_training_met_are_learned() -> None:
    world = Walks(random_lengths(60, longest=28))
    made = task(world)
    made.recommender.trained_N[::4] = False
    fit(made, training(epochs=2), seed=1)
    moved_N = made.recommender.offset_ND.detach().abs().amax(1) > 0
    assert torch.equal(moved_N, made.recommender.trained_N)
    assert torch.equal(made.ranker.vectors_ND, ITEMS)
    with torch.no_grad():
        made.validate()
    assert torch.equal(made.ranker.items_ND, made.recommender.items(ITEMS).detach())


@pytest.mark.parametrize(
    ("next_weight", "merge_weight", "taught"), [(1.0, 0.0, True), (0.0, 0.5, True), (0.0, 0.0, False)]
)
def test_an_interest_that_no_loss_teaches_has_no_say(next_weight: float, merge_weight: float, taught: bool) -> None:
    """The paper's loss alone teaches the refined interests, and lists are theirs alone, of one weight each."""
    made = task(Walks(random_lengths(60, longest=28)), next_item_weight=next_weight, merge_weight=merge_weight)
    assert ("now" in made.ranker.labels()) == taught
    fit(made, training(epochs=1), seed=1)
    with torch.no_grad():
        refined = made.ranker.state(made.data.events, torch.arange(3), torch.tensor([5, 5, 5])).refined
    assert refined.interests.shape[1] == 2 + taught
    if not taught:
        torch.testing.assert_close(refined.gate_BK1.exp(), torch.full((3, 2), 0.5))


def test_without_offsets_items_are_ranked_as_they_are() -> None:
    made = task(Walks(random_lengths(60, longest=28)), item_offset_rate=0.0)
    fit(made, training(epochs=1), seed=1)
    assert made.ranker.items_ND is made.ranker.vectors_ND
    assert made.recommender.offset_ND.numel() == 0


def weights(trained: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trained.state_dict().items()}


def test_it_learns_where_walks_go() -> None:
    """In 14 short epochs the loss halves and the validation event stands far above chance (about 0.2 here)."""
    results = []
    for _ in range(2):
        made = task(Walks(random_lengths(120)), training=training(epochs=14, patience=14, learning_rate=0.01))
        curve = fit(made, made.parameters.training, seed=0)
        results.append((weights(made.module), [record.as_dict() for record in curve]))
    assert curve[-1].loss < 0.5 * curve[0].loss
    assert curve[-1].parts["next_item"] < 0.6 * curve[0].parts["next_item"]
    assert max(record.validation["ndcg@10"] for record in curve) > 0.6
    assert results[0] == results[1], "one seed, one result, to the byte"
