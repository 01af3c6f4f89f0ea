"""Training of SASRec and ComiRec-SA: crops, targets, the nearest interest, negatives, learning."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.small import DIM, item_vectors
from prismrec.models.baselines import ComiRecRanker, SASRecRanker
from prismrec.models.comirec import ComiRec, ComiRecConfig
from prismrec.models.sasrec import SASRec, SASRecConfig
from prismrec.parameters.evaluation import BaselineParameters
from prismrec.training import baselines as module
from prismrec.training.baselines import BaselineTask, ComiRecTask, SASRecTask
from prismrec.training.loop import fit
from training.small import NUM_ITEMS, Walks, next_item, random_lengths, training

BOTH = pytest.mark.parametrize("kind", [SASRecTask, ComiRecTask], ids=["sasrec", "comirec"])
LENGTH = 7


def parameters(**changes: Any) -> BaselineParameters:
    values = {
        "dim": DIM, "layers": 1, "heads": 2, "interests": 2, "length": LENGTH, "dropout": 0.1, "negatives": 0,
        "negative_exponent": 0.75, "training": training(),
    }  # fmt: skip
    return BaselineParameters(**{**values, **changes})


def task(kind: type[BaselineTask], world: Walks, seed: int = 0, **changes: Any) -> BaselineTask:
    torch.manual_seed(0)
    made = parameters(**changes)
    if kind is SASRecTask:
        model = SASRec(SASRecConfig(NUM_ITEMS, made.dim, made.layers, made.heads, made.length, made.dropout))
    else:
        model = ComiRec(ComiRecConfig(NUM_ITEMS, made.dim, made.interests, made.length, made.dropout))
    counts = np.bincount(world.items, minlength=NUM_ITEMS)
    return kind(model, world.data(), counts, made, seed)


def label_states(made: BaselineTask, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let a vector's first two numbers say of which row and column it is, and keep what the loss is given."""
    seen: dict[str, Any] = {}

    def sasrec(items: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        label = torch.zeros_like(items)
        label[..., 0] = torch.arange(len(items))[:, None]
        label[..., 1] = torch.arange(items.shape[1])
        seen["width"] = items.shape[1]
        return label

    def comirec(items: torch.Tensor, mask: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        label = torch.zeros(*columns.shape, 2, DIM)
        label[..., 0] = torch.arange(len(items))[:, None, None]
        label[..., 1] = columns[..., None]
        seen["width"] = items.shape[1]
        return label

    def loss(vectors: torch.Tensor, targets: torch.Tensor, items: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        seen.update(vectors=vectors, targets=targets)
        return vectors.sum()

    if isinstance(made, SASRecTask):
        monkeypatch.setattr(made.module, "forward", sasrec)
    else:
        monkeypatch.setattr(made.module, "after", comirec)
    monkeypatch.setattr(module, "catalogue_cross_entropy", loss)
    return seen


@BOTH
def test_crops_hold_every_user_with_two_events_once_and_training_events_only(kind: type[BaselineTask]) -> None:
    """One target more than a model reads; users of one training event or none have nothing to predict."""
    world = Walks(random_lengths(80, longest=20))
    world.train_ends[:3] = 0
    batches = task(kind, world).epoch(np.random.default_rng(0))
    seen = [entry for batch in batches for entry in zip(*(part.tolist() for part in batch), strict=True)]
    assert (world.train_ends < 2).sum() > 3, "or nothing is skipped"
    assert sorted(user for user, _, _ in seen) == np.flatnonzero(world.train_ends >= 2).tolist()
    for user, start, end in seen:
        events = int(world.train_ends[user])
        assert 0 <= start < end <= events
        assert end - start == min(events, LENGTH + 1)


@BOTH
def test_crops_are_drawn_anew(kind: type[BaselineTask]) -> None:
    made = task(kind, Walks([30] * 8))
    rng = np.random.default_rng(0)
    ends = {int(end) for _ in range(20) for batch in made.epoch(rng) for end in batch.ends_B}
    assert min(ends) == LENGTH + 1
    assert max(ends) == 28


@BOTH
def test_every_event_predicts_the_one_after_it(kind: type[BaselineTask], monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(kind, Walks(random_lengths(60, longest=20)))
    seen = label_states(made, monkeypatch)
    for batch in made.epoch(np.random.default_rng(0)):
        made.loss(batch)
        crop = made.data.cut(batch)
        assert seen["width"] == crop.items_BL.shape[1] - 1 <= LENGTH, "the last event is a target only"
        pairs = [(int(vector[0]), int(vector[1])) for vector in seen["vectors"]]
        for (row, column), target in zip(pairs, seen["targets"], strict=True):
            assert crop.mask_BL[row, column]
            assert target == next_item(crop.items_BL[row, column])
        # The budget covers this small batch: every position counts, once.
        assert len(set(pairs)) == len(pairs) == int(crop.mask_BL[:, :-1].sum())


@BOTH
def test_the_number_of_positions_is_bounded(kind: type[BaselineTask], monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(kind, Walks([20] * 16), training=training(positions_per_step=32))
    seen = label_states(made, monkeypatch)
    made.loss(made.epoch(np.random.default_rng(0))[0])
    assert len(seen["targets"]) == 32


def test_a_target_trains_the_interest_nearest_to_it() -> None:
    made, items = task(ComiRecTask, Walks(random_lengths())), item_vectors(NUM_ITEMS)
    vectors = item_vectors(10, seed=3).view(5, 2, DIM).requires_grad_()
    targets = torch.tensor([3, 4, 5, 6, 7])
    made._cross_entropy(vectors, targets, items, torch.tensor(5.0), 5).total.backward()
    cosine = (vectors.detach() * items[targets][:, None]).sum(-1)
    trained = vectors.grad.abs().amax(-1) > 0
    assert trained.sum(1).tolist() == [1] * 5
    assert torch.equal(trained.int().argmax(1), cosine.argmax(1))


@BOTH
def test_sampled_negatives_are_drawn_by_tempered_popularity(
    kind: type[BaselineTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Walks(random_lengths())
    made = task(kind, world, negatives=11, negative_exponent=0.5)
    given: list[tuple[Any, ...]] = []
    real = module.sampled_cross_entropy

    def spy(*arguments: Any) -> torch.Tensor:
        given.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "sampled_cross_entropy", spy)
    loss = made.loss(made.epoch(np.random.default_rng(0))[0]).total
    assert torch.isfinite(loss)
    draw, negatives = given[0][4:6]
    np.testing.assert_allclose(draw, np.maximum(np.bincount(world.items, minlength=NUM_ITEMS), 0.5) ** 0.5)
    assert negatives == 11


@BOTH
def test_everything_learns(kind: type[BaselineTask]) -> None:
    made = task(kind, Walks(random_lengths()), negatives=0)
    made.loss(made.epoch(np.random.default_rng(0))[0]).total.backward()
    for name, parameter in made.module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert made.module.item_ND.grad.abs().max() > 0
    assert made.module.log_scale.grad != 0


def test_rankers_read_the_weights_of_now() -> None:
    for kind, ranker in ((SASRecTask, SASRecRanker), (ComiRecTask, ComiRecRanker)):
        made = task(kind, Walks(random_lengths()))
        assert isinstance(made.ranker(), ranker)
        before = made.ranker().items_ND
        with torch.no_grad():
            made.module.item_ND.add_(1.0)
        assert not torch.equal(made.ranker().items_ND, before)


def weights(trained: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trained.state_dict().items()}


@BOTH
@pytest.mark.parametrize("negatives", [0, 64])
def test_it_learns_where_walks_go(kind: type[BaselineTask], negatives: int) -> None:
    """The validation event ends far above chance (about 0.2 here), with either softmax; twice the same."""
    schedule = training(epochs=12, patience=12, learning_rate=0.03)
    results = []
    for _ in range(2):
        made = task(kind, Walks(random_lengths(120)), negatives=negatives, training=schedule)
        curve = fit(made, schedule, seed=0)
        results.append((weights(made.module), [record.as_dict() for record in curve]))
    assert curve[-1].loss < 0.6 * curve[0].loss
    assert max(record.validation["ndcg@10"] for record in curve) > 0.8
    assert results[0] == results[1], "one seed, one result, to the byte"


def test_heads_divide_the_dimension() -> None:
    with pytest.raises(ValidationError, match=r"dim \(8\) must be a multiple of heads \(3\)"):
        parameters(heads=3)
