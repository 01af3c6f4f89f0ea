"""Shares of a batch sum to the whole, and two processes that share every batch take the steps that one takes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from prismrec.training.baselines import ComiRecTask, SASRecTask
from prismrec.training.gemirec import PosteriorTask, RetrievalTask
from prismrec.training.loop import Share
from training.small import Walks, random_lengths, training
from training.test_baselines import task as baseline
from training.test_gemirec import task as gemirec_task
from training.test_lightweight_encoder import task as encoder_task
from training.test_recommender import task as recommender_task

TASKS = {
    "recommender": lambda world, limit: recommender_task(world, training=training(positions_per_step=limit)),
    "recommender, sampled": lambda world, limit: recommender_task(
        world, negatives="sampled", item_offset_rate=0.0, training=training(positions_per_step=limit)
    ),
    "recommender, in batch": lambda world, limit: recommender_task(
        world, negatives="in_batch", item_offset_rate=0.0, training=training(positions_per_step=limit)
    ),
    "encoder": lambda world, limit: encoder_task(world, training=training(positions_per_step=limit)),
    "sasrec": lambda world, limit: baseline(SASRecTask, world, training=training(positions_per_step=limit)),
    "sampled": lambda world, limit: baseline(
        SASRecTask, world, negatives=8, training=training(positions_per_step=limit)
    ),
    "comirec": lambda world, limit: baseline(ComiRecTask, world, training=training(positions_per_step=limit)),
    "posterior": lambda world, limit: gemirec_task(PosteriorTask, world, positions_per_step=limit),
    "retrieval": lambda world, limit: gemirec_task(RetrievalTask, world, positions_per_step=limit),
}
SCRIPT = Path(__file__).with_name("shared_training.py")
# A softmax does not see them: their gradient is rounding noise, which Adam blows up to its step size.
FREE = {"gate.bias", "encoder.key.bias"}
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def loss_and_gradients(made: Any, batch: Any, number: int) -> dict[str, torch.Tensor]:
    """Sums over all shares of a batch; every share draws from the same state of the generator."""
    state = made.generator.get_state()
    made.module.zero_grad()
    found: dict[str, torch.Tensor] = {}
    for index in range(number):
        made.generator.set_state(state)
        loss = made.loss(batch, Share(index, number))
        loss.total.backward()
        for name, value in {"loss": loss.total, **loss.parts}.items():
            found[name] = found.get(name, torch.zeros(())) + value.detach()
    made.generator.set_state(state)
    gradients = {name: p.grad.clone() for name, p in made.module.named_parameters() if p.grad is not None}
    return {**found, **gradients}


@pytest.mark.parametrize("limit", [3, 40, 10**6])
@pytest.mark.parametrize("kind", TASKS)
def test_shares_sum_to_the_whole(kind: str, limit: int) -> None:
    """Losses, their parts and all gradients; with few positions a step, some shares have none."""
    made = TASKS[kind](Walks(random_lengths(60, longest=20)), limit)
    made.module.eval()  # dropout draws for a share what it draws for a batch of that size
    batches = made.epoch(np.random.default_rng(0))
    for batch in batches[:2]:
        whole = loss_and_gradients(made, batch, 1)
        for number in (2, 5):
            parts = loss_and_gradients(made, batch, min(number, len(batch.users_B)))
            assert parts.keys() == whole.keys()
            for name, value in whole.items():
                torch.testing.assert_close(parts[name], value, atol=2e-5, rtol=1e-4, msg=f"{name}, {number} shares")


@given(st.integers(0, 200), st.integers(1, 20))
def test_every_user_is_in_one_share(users: int, number: int) -> None:
    shares = [list(range(users))[Share(index, number).of(users)] for index in range(number)]
    assert [user for share in shares for user in share] == list(range(users))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("kind", TASKS)
def test_sizes_are_those_of_the_batches(kind: str) -> None:
    """Users of the batch; no more events than slots; padding is what differs between the longest and the others."""
    made = TASKS[kind](Walks(random_lengths(60, longest=20)), 7)
    for batch in made.epoch(np.random.default_rng(0)):
        work = made.size(batch)
        assert work.users == len(batch.users_B)
        assert 0 < work.positions <= 7
        assert work.users <= work.events <= work.slots
    alike = TASKS[kind](Walks([4] * 20), 7)  # two training events each: one way to cut them
    assert all(work.events == work.slots for work in map(alike.size, alike.epoch(np.random.default_rng(0))))


def train(folder: Path, processes: int, accumulation: int = 1) -> list[tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Losses and final weights of every process."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    started = []
    for rank in range(processes):
        places = [str(rank), str(processes), str(rank), "127.0.0.1", str(port)]
        launched = dict(zip(LAUNCHED, places, strict=True)) if processes > 1 else {}
        command = [sys.executable, str(SCRIPT), str(folder), str(accumulation)]
        started.append(subprocess.Popen(command, env={**alone, **launched}, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, log = process.communicate(timeout=500)
        assert process.returncode == 0, log
    return [
        (json.loads((folder / f"{rank}.json").read_text()), load_file(folder / f"{rank}.safetensors"))
        for rank in range(processes)
    ]


def assert_same_steps(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    assert len(expected[0]["steps"]) == 10
    for step, other in zip(found[0]["steps"], expected[0]["steps"], strict=True):
        assert step == pytest.approx(other, abs=1e-4)
    for name in expected[1].keys() - FREE:
        tensor = expected[1][name]
        torch.testing.assert_close(found[1][name], tensor, atol=1e-4, rtol=0, msg=name)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """The losses of every step and the weights, to 1e-4, at the same global batch."""
    (alone,) = train(tmp_path / "one", 1)
    first, second = train(tmp_path / "two", 2)
    assert_same_steps(first, alone)
    for name, tensor in first[1].items():
        assert torch.equal(tensor, second[1][name]), "both hold the same weights"
    assert first[0]["curve"] == second[0]["curve"]


def test_micro_batches_take_the_steps_of_whole_ones(tmp_path: Path) -> None:
    (whole,) = train(tmp_path / "whole", 1)
    (parts,) = train(tmp_path / "parts", 1, accumulation=3)
    assert_same_steps(parts, whole)
