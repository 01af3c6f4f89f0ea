"""A training that is killed and run again ends with the bytes of one that was not."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prismrec.training import held, loop
from prismrec.training.loop import fit
from training.small import Walks, encoder_parameters, random_lengths, training
from training.test_loop import Regression
from training.test_recommender import task

SCRIPT = Path(__file__).with_name("killed_training.py")


def start(folder: Path, checkpoints: Path, delay: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), str(checkpoints), str(delay)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def run_to_the_end(folder: Path, checkpoints: Path) -> tuple[bytes, str, str]:
    folder.mkdir(exist_ok=True)
    process = start(folder, checkpoints, 0.0)
    _, log = process.communicate()
    assert process.returncode == 0, log
    return (folder / "weights.safetensors").read_bytes(), (folder / "curve.json").read_text(), log


def states(checkpoints: Path) -> list[str]:
    """Names of the complete states on the disk: step and epoch."""
    return sorted(path.parent.name for path in checkpoints.glob("*/0*/state.json"))


def test_killed_at_random_steps_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """One training, killed three times at random moments, each time going on where it was."""
    weights, curve, _ = run_to_the_end(tmp_path / "whole", tmp_path / "unused")
    checkpoints, rng, last = tmp_path / "checkpoints", random.Random(0), []
    for _ in range(3):
        process = start(tmp_path, checkpoints, 0.05)
        for _ in range(rng.randint(1, 4)):
            before = states(checkpoints)
            while states(checkpoints) == before:
                assert process.poll() is None, process.communicate()
                time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.communicate()
        assert not (tmp_path / "weights.safetensors").exists(), "the training ended before the kill"
        last.append(states(checkpoints)[-1])
    assert last == sorted(set(last)), "each time it went on, and further than before"
    resumed_weights, resumed_curve, log = run_to_the_end(tmp_path / "resumed", checkpoints)
    assert f"resuming at epoch {int(last[-1][10:])}, step {int(last[-1][:9])}" in log
    assert resumed_weights == weights
    assert resumed_curve == curve


class Interrupted(Exception):
    """Raised instead of a kill, where the process is to live on."""


def outcome(
    checkpoints: Path | None, breaks_at: int | None = None, seed: int = 0, made: Any | None = None, **changes: Any
) -> Any:
    """Weights and curve of a regression; it breaks at that forward pass, if one is given."""
    made, passes = made or Regression(), iter(range(10**6))

    def count(*_: Any) -> None:
        if next(passes) == breaks_at:
            raise Interrupted

    made.module.register_forward_pre_hook(count)
    schedule = training(**{"epochs": 4, "patience": 9, "checkpoint_seconds": 1e-9, **changes})
    curve = fit(made, schedule, seed, checkpoints)
    weights = [tensor.numpy().tobytes() for tensor in made.module.state_dict().values()]
    return weights, [record.as_dict() for record in curve]


@pytest.mark.parametrize("breaks_at", range(1, 20))
def test_interrupted_anywhere_it_ends_with_the_same_bytes(tmp_path: Path, breaks_at: int) -> None:
    """Inside an epoch, at its end, before its validation: 4 epochs of 4 steps and a validation each."""
    whole = outcome(None)
    with pytest.raises(Interrupted):
        outcome(tmp_path, breaks_at)
    assert outcome(tmp_path) == whole
    assert outcome(tmp_path) == whole, "and once more, from the state after the last epoch"


class Harmed(Regression):
    """Every step away from the start makes it worse."""

    def __init__(self) -> None:
        super().__init__(start_competes=True)
        self.began = self.linear.weight.detach().clone()

    def validate(self) -> dict[str, float]:
        self.module(torch.zeros(1, 3))  # where it may be interrupted
        return {"ndcg@10": -float((self.linear.weight - self.began).norm())}


@pytest.mark.parametrize("made", [lambda: Regression(start_competes=True), Harmed])
@pytest.mark.parametrize("breaks_at", [0, 2, 5, 6, 12, 19, 20])
def test_interrupted_anywhere_a_start_that_competes_is_not_forgotten(
    tmp_path: Path, breaks_at: int, made: Callable[[], Regression]
) -> None:
    """In its validation, inside the first epoch, in later ones; of a training that helps and of one that harms."""
    whole, task = outcome(None, made=made()), made()
    with pytest.raises(Interrupted):
        outcome(tmp_path, breaks_at, made=made())
    assert outcome(tmp_path, made=task) == whole
    assert torch.equal(task.linear.weight, made().linear.weight) == isinstance(task, Harmed)
    assert outcome(tmp_path, made=made()) == whole, "and once more, from the state after the last epoch"


def test_a_state_is_kept_at_every_epochs_end_alone_when_the_interval_is_long(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        outcome(tmp_path, 13, checkpoint_seconds=1e9)
    assert states(tmp_path) == ["000000008-00003"]
    assert outcome(tmp_path, checkpoint_seconds=1e9) == outcome(None)


def test_nothing_is_kept_when_it_is_switched_off(tmp_path: Path) -> None:
    outcome(tmp_path, checkpoint_seconds=0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"seed": 1}, {"learning_rate": 0.02}, {"accumulation": 2}])
def test_another_training_starts_afresh_and_says_so(
    tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        outcome(tmp_path, 7)
    assert outcome(tmp_path, **changes) == outcome(None, **changes)
    assert "starts afresh" in caplog.text


def test_other_code_starts_afresh_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = tmp_path / "code" / "training"
    code.mkdir(parents=True)
    (code / "losses.py").write_text("RATE = 1\n")
    monkeypatch.setattr(loop, "SOURCE", code.parent)
    with pytest.raises(Interrupted):
        outcome(tmp_path / "states", 7)
    (code / "losses.py").write_text("RATE = 2\n")
    assert outcome(tmp_path / "states") == outcome(None)
    assert "starts afresh" in caplog.text


def test_how_often_states_are_kept_does_not_make_it_another_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        outcome(tmp_path, 7)
    outcome(tmp_path, checkpoint_seconds=30.0)
    assert "resuming at epoch 2, step 6" in caplog.text


@pytest.mark.parametrize("change", ["weights", "items", "lengths", "parameters", "generator"])
def test_the_identity_tells_what_a_task_holds(change: str) -> None:
    def made() -> Any:
        return task(Walks(random_lengths(20)))

    assert held.digest(made()) == held.digest(made())
    other = made()
    with torch.no_grad():
        if change == "weights":
            other.recommender.null_CD[0, 0] += 1e-6
        elif change == "items":
            other.data.training_events.items_E[3] += 1
        elif change == "lengths":
            other.data.train_ends_U[3] -= 1
        elif change == "parameters":
            other.parameters = other.parameters.model_copy(update={"merge_weight": 0.25})
        else:
            torch.rand(1, generator=other.generator)
    assert held.digest(other) != held.digest(made())


def test_what_a_task_keeps_of_its_parameters_tells_as_much_as_the_schedule_does() -> None:
    """Its device, and how often states are kept, at whatever depth, are no part of it; how long it trains is."""
    parameters = encoder_parameters(training=training(epochs=2, checkpoint_seconds=1.0, device="auto"))
    others = encoder_parameters(training=training(epochs=2, checkpoint_seconds=2.0, device="cpu"))
    longer = encoder_parameters(training=training(epochs=3, checkpoint_seconds=1.0, device="auto"))
    assert held.digest(parameters) == held.digest(others)
    assert held.digest(parameters) != held.digest(longer)


def test_a_task_is_placed_with_all_it_holds() -> None:
    """The meta device stands for a GPU: a tensor left behind would still have a device of its own."""
    made = task(Walks(random_lengths(20)))
    assert made.items_ND is made.ranker.vectors_ND
    held.place(made, "meta")
    tensors = [*made.module.state_dict().values(), made.items_ND, made.ranker.long_ND, made.ranker.recommendable_N]
    tensors += [made.data.events.items_E, made.data.training_events.gaps_E, *made.data.validation]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert made.items_ND is made.ranker.vectors_ND, "held twice, kept once"
    assert made.ranker.items_ND.device.type == "meta"
    assert made.generator.device.type == "cpu"
