"""The training loop: best epoch, early stopping, schedule, determinism."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from prismrec.errors import UserError
from prismrec.models import precision
from prismrec.training import loop
from prismrec.training.loop import WHOLE, Loss, Share, fit, learning_rate_at
from prismrec.training.speed import Work
from training.small import training


class Regression:
    """A linear map learns another one; the validation figures are scripted where a script is given."""

    name = "regression"

    def __init__(
        self,
        script: list[float] | None = None,
        batches: int = 4,
        factor: float = 1.0,
        start_competes: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 2))
        self.generator = torch.Generator().manual_seed(0)
        self.script, self.batches, self.factor = script, batches, factor
        self.start_competes = start_competes
        self.weights: list[torch.Tensor] = []
        self.modes: list[tuple[str, bool, bool]] = []
        self.losses: list[float] = []

    @property
    def linear(self) -> nn.Linear:
        return self.module[1]

    def epoch(self, rng: np.random.Generator) -> list[torch.Tensor]:
        return [torch.as_tensor(rng.standard_normal((8, 3)), dtype=torch.float32) for _ in range(self.batches)]

    def size(self, batch: torch.Tensor) -> Work:
        return Work(len(batch), len(batch), 3 * len(batch), 4 * len(batch))

    def loss(self, batch: torch.Tensor, share: Share = WHOLE) -> Loss:
        self.modes.append(("loss", self.module.training, torch.is_autocast_enabled("cpu")))
        whole, batch = len(batch), batch[share.of(len(batch))]
        error = (self.module(batch) - batch[:, :2] + 1).float().square().mean() * self.factor * (len(batch) / whole)
        self.losses.append(float(error.detach()))
        return Loss(error, {"half": error / 2})

    def validate(self) -> dict[str, float]:
        self.modes.append(("validate", self.module.training, torch.is_inference_mode_enabled()))
        self.weights.append(self.linear.weight.detach().clone())
        if self.script is None:
            batch = torch.eye(3)
            return {"ndcg@10": -float((self.module(batch) - batch[:, :2] + 1).square().mean())}
        return {"ndcg@10": self.script[len(self.weights) - 1], "hr@10": 0.5}


def test_the_best_epochs_weights_are_kept() -> None:
    task = Regression([0.1, 0.5, 0.3, 0.4, 0.2])
    curve = fit(task, training(epochs=5, patience=9), seed=0)
    assert [record.validation["ndcg@10"] for record in curve] == [0.1, 0.5, 0.3, 0.4, 0.2]
    assert torch.equal(task.linear.weight, task.weights[1])
    assert not torch.equal(task.linear.weight, task.weights[4])
    assert not task.module.training


@pytest.mark.parametrize(
    ("script", "patience", "epochs", "best"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, 4, 1),  # two epochs without a better one
        ([0.1, 0.5, 0.4, 0.6, 0.5, 0.4, 0.9], 2, 6, 3),  # a better one starts the count anew
        ([0.5, 0.4, 0.9], 1, 2, 0),
        ([0.5, 0.5, 0.5, 0.5], 2, 3, 0),  # equal is not better, the earlier stays
        ([0.1, 0.2, 0.3], 1, 3, 2),
    ],
)
def test_early_stopping(script: list[float], patience: int, epochs: int, best: int) -> None:
    task = Regression(script)
    curve = fit(task, training(epochs=len(script), patience=patience), seed=0)
    assert [record.epoch for record in curve] == list(range(1, epochs + 1))
    assert torch.equal(task.linear.weight, task.weights[best])


def test_a_later_epoch_that_diverges_is_not_the_best() -> None:
    task = Regression([0.1, math.nan, math.nan, 0.05])
    fit(task, training(epochs=4, patience=9), seed=0)
    assert torch.equal(task.linear.weight, task.weights[0])


def test_a_settled_number_of_epochs_is_trained_unseen() -> None:
    """The rates are those of the full schedule's first epochs, and validation is never asked."""
    full, short = Regression([0.1, 0.2, 0.3, 0.4]), Regression()
    fit(full, training(epochs=4, patience=1), seed=0)
    curve = fit(short, training(epochs=4, patience=1), seed=0, epochs=3)
    assert [record.validation for record in curve] == [{}] * 3
    assert not short.weights
    assert torch.equal(short.linear.weight, full.weights[2])
    assert not short.module.training


def test_a_settled_training_that_diverges_says_so() -> None:
    task = Regression(factor=math.nan)
    with pytest.raises(UserError, match="diverged"):
        fit(task, training(epochs=3), seed=0, epochs=2)


@pytest.mark.parametrize(
    ("script", "patience", "epochs", "best"),
    [
        ([0.5, 0.1, 0.4, 0.3], 9, 3, 0),  # training only harms: the start is kept
        ([0.5, 0.1, 0.5, 0.3], 9, 3, 0),  # equal is not better
        ([0.5, 0.1, 0.6, 0.3], 9, 3, 2),
        ([0.5, 0.1, 0.2, 0.3, 0.6], 1, 4, 4),  # patience goes by the trained epochs, which come nearer
        ([0.5, 0.2, 0.1, 0.1, 0.6], 2, 3, 0),
    ],
)
def test_the_start_competes(script: list[float], patience: int, epochs: int, best: int) -> None:
    """The curve begins at epoch 0, and the trained weights are those of a training whose start does not compete."""
    task, usual = Regression(script, start_competes=True), Regression(script[1:])
    start = task.linear.weight.detach().clone()
    schedule = training(epochs=len(script) - 1, patience=patience)
    curve = fit(task, schedule, seed=0)
    assert [(record.epoch, record.validation["ndcg@10"]) for record in curve] == list(enumerate(script[: epochs + 1]))
    assert [record.loss is None for record in curve] == [True] + [False] * epochs
    assert torch.equal(task.linear.weight, task.weights[best])
    assert torch.equal(task.weights[0], start)
    assert task.modes[0] == ("validate", False, True)
    assert not task.module.training
    assert [record.as_dict() for record in curve[1:]] == [record.as_dict() for record in fit(usual, schedule, seed=0)]
    for one, other in zip(task.weights[1:], usual.weights, strict=True):
        assert torch.equal(one, other)


def test_a_settled_number_of_none_keeps_the_start() -> None:
    """What a final fit does where the start was best; nothing is asked of a start where the number is another."""
    for epochs in (0, 2):
        task = Regression(start_competes=True)
        start = task.linear.weight.detach().clone()
        curve = fit(task, training(epochs=3), seed=0, epochs=epochs)
        assert [record.epoch for record in curve] == list(range(1, epochs + 1))
        assert torch.equal(task.linear.weight, start) == (epochs == 0)
        assert not task.weights
        assert not task.module.training


class Exploding(Regression):
    """After so many good epochs its weights are no numbers any more, and nobody may rank with it."""

    good = 0

    def loss(self, batch: torch.Tensor, share: Share = WHOLE) -> Loss:
        if len(self.weights) == self.good:
            self.factor = math.nan
        return super().loss(batch, share)

    def validate(self) -> dict[str, float]:
        assert all(bool(weight.isfinite().all()) for weight in self.module.parameters())
        return super().validate()


def test_an_epoch_that_diverges_ends_the_training_and_the_best_before_it_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = Exploding([0.1, 0.5, 0.3])
    task.good = 2
    curve = fit(task, training(epochs=5, patience=9), seed=0)
    assert [record.epoch for record in curve] == [1, 2]
    assert torch.equal(task.linear.weight, task.weights[1])
    assert "diverged in epoch 3: the weights of epoch 2 are kept" in caplog.text


def test_the_start_is_kept_where_the_first_epoch_diverges(caplog: pytest.LogCaptureFixture) -> None:
    task = Exploding([0.1], start_competes=True)
    task.good = 1
    curve = fit(task, training(epochs=3), seed=0)
    assert [record.epoch for record in curve] == [0]
    assert torch.equal(task.linear.weight, task.weights[0])
    assert "diverged in epoch 1: the weights it began with are kept" in caplog.text


def test_training_that_diverges_before_any_validation_says_so() -> None:
    task = Exploding([0.1])
    task.good = 0
    with pytest.raises(UserError, match="no epoch gave a figure"):
        fit(task, training(epochs=3, patience=1), seed=0)


def test_training_that_diverges_at_once_says_so() -> None:
    """The person can mend it: a smaller learning rate. No weights of a diverged model are handed on."""
    with pytest.raises(UserError):
        fit(Regression([math.nan] * 3), training(epochs=3, patience=1), seed=0)


@pytest.mark.parametrize(("total", "share"), [(100, 0.1), (7, 0.0), (40, 0.5), (3, 0.9), (1, 0.0)])
def test_the_schedule_rises_linearly_and_falls_by_a_cosine(total: int, share: float) -> None:
    schedule = training(learning_rate=0.02, warmup_share=share)
    rates = [learning_rate_at(step, total, schedule) for step in range(total)]
    rise = max(1, round(share * total))
    for step in range(rise):
        assert rates[step] == pytest.approx(0.02 * (step + 1) / rise)
    for step in range(rise, total):
        angle = math.pi * (step - rise) / (total - rise)
        assert rates[step] == pytest.approx(0.01 * (1 + math.cos(angle)))
    assert max(rates) == pytest.approx(0.02)
    assert min(rates) > 0
    assert rates[rise:] == sorted(rates[rise:], reverse=True)


def test_each_step_uses_its_rate_and_only_matrices_decay() -> None:
    """With no gradient, AdamW multiplies a matrix by 1 - rate · decay at every step and leaves vectors alone."""

    class Still(Regression):
        def loss(self, batch: torch.Tensor, share: Share = WHOLE) -> Loss:
            return Loss(sum((0.0 * parameter).sum() for parameter in self.module.parameters()), {})

    task = Still([0.1, 0.2, 0.3], batches=5)
    weight, bias = task.linear.weight.detach().clone(), task.linear.bias.detach().clone()
    schedule = training(epochs=3, learning_rate=0.1, weight_decay=0.5, warmup_share=0.2)
    fit(task, schedule, seed=0)
    shrunk = math.prod(1 - 0.5 * learning_rate_at(step, 15, schedule) for step in range(15))
    torch.testing.assert_close(task.linear.weight, weight * shrunk)
    assert torch.equal(task.linear.bias, bias)


def applied_gradient_norms(factor: float) -> list[float]:
    task, norms = Regression(factor=factor), []

    def note(*_: Any) -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in task.module.parameters()]).norm()))

    hook = register_optimizer_step_pre_hook(note)
    fit(task, training(clip_norm=0.5, epochs=2), seed=0)
    hook.remove()
    return norms


def test_gradients_are_clipped() -> None:
    wild = applied_gradient_norms(1e4)
    assert len(wild) == 8
    assert max(wild) == pytest.approx(0.5, abs=1e-4)
    assert max(applied_gradient_norms(1e-3)) < 0.1, "small ones are left as they are"


@pytest.mark.parametrize(("bf16", "made_for_it"), [(True, True), (True, False), (False, True)])
def test_modes(bf16: bool, made_for_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device_type: made_for_it)
    task = Regression([0.1, 0.2])
    fit(task, training(epochs=2, bf16=bf16), seed=0)
    expected = [("loss", True, bf16 and made_for_it)] * 9  # the last counts FLOPs
    assert [mode for mode in task.modes if mode[0] == "loss"] == expected
    assert [mode for mode in task.modes if mode[0] == "validate"] == [("validate", False, True)] * 2


def test_frozen_parameters_stay() -> None:
    task = Regression()
    task.linear.bias.requires_grad_(False)
    bias = task.linear.bias.clone()
    weight = task.linear.weight.detach().clone()
    fit(task, training(), seed=0)
    assert torch.equal(task.linear.bias, bias)
    assert not torch.equal(task.linear.weight, weight)


def run(seed: int) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    task = Regression()
    curve = fit(task, training(epochs=4, patience=9), seed)
    weights = {name: tensor.numpy().tobytes() for name, tensor in task.module.state_dict().items()}
    return weights, [record.as_dict() for record in curve]


def test_one_seed_gives_one_result() -> None:
    """Weights to the byte and the curve to the digit, dropout and batches included; another seed another."""
    first, again, other = run(3), run(3), run(4)
    assert first == again
    assert first[0] != other[0]


def test_the_loss_falls_and_the_curve_says_so() -> None:
    task = Regression()
    curve = fit(task, training(epochs=20, patience=20, learning_rate=0.1), seed=0)
    assert curve[-1].loss < 0.3 * curve[0].loss
    for epoch, record in enumerate(curve):
        assert record.loss == pytest.approx(np.mean(task.losses[4 * epoch : 4 * epoch + 4]), rel=1e-5)
        assert record.parts["half"] == pytest.approx(record.loss / 2, rel=1e-5)
        assert record.seconds > 0
        assert "seconds" not in record.as_dict()
        assert record.as_dict(with_time=True)["seconds"] == record.seconds
    assert loop.SELECTION_METRIC in curve[0].validation
