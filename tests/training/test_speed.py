"""What a training says of its speed: in words, and in what its stage's run.json takes over."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from prismrec.artifacts.stage_record import take_costs
from prismrec.models import backbone
from prismrec.training.loop import fit
from prismrec.training.speed import Meter, Work, matmul_peak
from training.small import Walks, random_lengths, training
from training.test_loop import Regression
from training.test_recommender import task


def test_figures_of_a_training() -> None:
    """30 positions and 60 events in 80 slots, of 100 FLOPs each, in 2 s on a machine of 8,000 FLOP/s."""
    figures = Meter(Work(4, 30, 60, 80), seconds=2.0).report(flops_per_slot=100.0, peak=8000.0)
    assert figures["positions_per_second"] == 15.0
    assert figures["padding_waste"] == 0.25
    assert figures["model_flop_utilisation"] == 0.5


def test_flops_are_those_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear map of 8 rows, 3 to 2, forward and the gradient of its weights: 2 · 8 · 3 · 2 FLOPs each."""
    seen = counted_flops(monkeypatch)
    made = Regression()
    fit(made, training(epochs=1), seed=0)
    slots = made.size(torch.zeros(8, 3)).slots
    assert seen[0] * slots == 2 * (2 * 8 * 3 * 2)


def counted_flops(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """FLOPs a slot of every training that follows."""
    seen: list[float] = []

    def report(_: Meter, flops_per_slot: float, peak: float) -> dict[str, float]:
        seen.append(flops_per_slot)
        return dict.fromkeys(
            ("positions_per_second", "padding_waste", "model_flop_utilisation", "matmul_peak_gflops"), 0.0
        )

    monkeypatch.setattr(Meter, "report", report)
    return seen


def test_what_gradient_checkpointing_computes_anew_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted_flops(monkeypatch)
    for checkpointing in (False, True):
        made = task(Walks(random_lengths(40)), training=training(epochs=1))
        with backbone.economies(made.recommender.backbone, checkpointing, False):
            fit(made, made.parameters.training, seed=0)
    assert seen[0] == seen[1] > 0


def test_a_training_says_how_fast_it_was(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    take_costs()
    fit(Regression(), training(epochs=2), seed=0)
    figures = take_costs()["regression"]
    assert figures["padding_waste"] == 0.25
    assert figures["positions_per_second"] > 0
    assert 0 <= figures["model_flop_utilisation"] < 1
    assert figures["processes"] == 1
    assert take_costs() == {}, "taken once"
    assert "25.0 % padding" in caplog.text


def test_counting_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the weights nor in the generators that come after."""

    def outcome() -> tuple[list[bytes], torch.Tensor, torch.Tensor]:
        made = task(Walks(random_lengths(40)), training=training(epochs=1))
        fit(made, made.parameters.training, seed=0)
        weights = [tensor.numpy().tobytes() for tensor in made.module.state_dict().values()]
        return weights, torch.rand(3), made.generator.get_state()

    counted = outcome()
    monkeypatch.setattr("prismrec.training.loop._Training.print_speed", lambda _: None)
    plain = outcome()
    assert counted[0] == plain[0]
    assert torch.equal(counted[1], plain[1])
    assert torch.equal(counted[2], plain[2])


def test_the_peak_is_that_of_a_machine() -> None:
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32) < 1e15


def gradients(checkpointing: bool = False, compiled: bool = False) -> dict[str, torch.Tensor]:
    made = task(Walks(random_lengths(40)))
    for part in made.module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.0
    made.module.train()
    (batch, *_) = made.epoch(np.random.default_rng(0))
    with backbone.economies(made.recommender.backbone, checkpointing, compiled):
        made.loss(batch).total.backward()
    assert not made.recommender.backbone.is_activation_checkpointing
    return {name: p.grad for name, p in made.module.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, economical = gradients(), gradients(checkpointing=True)
    assert plain.keys() == economical.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(economical[name], gradient, msg=name)


def test_a_backbone_that_cannot_be_compiled_says_so_and_trains(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backbone, "_compile_obstacle", lambda: "no compiler")
    plain, not_compiled = gradients(), gradients(compiled=True)
    assert "not compiled: no compiler" in caplog.text
    assert all(torch.equal(not_compiled[name], gradient) for name, gradient in plain.items())
