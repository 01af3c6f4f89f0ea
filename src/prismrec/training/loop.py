"""The one training loop: every model that learns by gradient steps is a `Task` run by `fit`.

AdamW with warm-up and cosine decay, gradient clipping, bf16 autocast where asked for, validation after every epoch;
the weights of the best epoch are kept, and training stops when `patience` epochs bring nothing better. The
optimiser step and the backward pass are accelerate's; training runs on the CPU. Progress bars show on a terminal only.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prismrec.errors import UserError
from prismrec.parameters.training import TrainingParameters
from prismrec.training.memory import keep_freed_memory

SELECTION_METRIC = "ndcg@10"


class Loss(NamedTuple):
    """What is minimised, and its parts for the training curve."""

    total: Tensor
    parts: dict[str, Tensor]


class Task(Protocol):
    """What differs from model to model."""

    name: str

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def epoch(self, rng: np.random.Generator) -> Sequence[Any]:
        """The batches of one epoch; the same number each time."""

    def loss(self, batch: Any) -> Loss:
        """The loss of one batch."""

    def validate(self) -> dict[str, float]:
        """Metrics on the validation events; "ndcg@10" picks the epoch, higher is better."""


class EpochRecord(NamedTuple):
    """One line of a training curve."""

    epoch: int
    loss: float
    parts: dict[str, float]
    validation: dict[str, float]
    seconds: float

    def as_dict(self, with_time: bool = False) -> dict[str, Any]:
        """Plain data; without the wall time the record is the same in every run."""
        record = self._asdict()
        return record if with_time else {key: value for key, value in record.items() if key != "seconds"}


def learning_rate_at(step: int, total: int, schedule: TrainingParameters) -> float:
    """Linear warm-up, then cosine decay to zero."""
    warm_up = max(1, round(schedule.warmup_share * total))
    if step < warm_up:
        return schedule.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up)
    return schedule.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _optimizer(module: nn.Module, schedule: TrainingParameters) -> torch.optim.Optimizer:
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=False)


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Make torch choose algorithms whose sums do not depend on how threads are timed, for as long as this lasts."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@repeatable()
def fit(task: Task, schedule: TrainingParameters, seed: int) -> list[EpochRecord]:
    """Train `task.module` in place; it ends with the weights of the best epoch, in evaluation mode.

    Returns:
        One record an epoch, the last one possibly short of `schedule.epochs` (early stopping).
    """
    from accelerate import Accelerator
    from tqdm import tqdm

    keep_freed_memory()
    accelerator = Accelerator(cpu=True)
    module = task.module.to(accelerator.device)
    optimizer = accelerator.prepare(_optimizer(module, schedule))
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    curve: list[EpochRecord] = []
    best, best_epoch, best_weights, step = -math.inf, 0, _snapshot(module), 0
    for epoch in range(1, schedule.epochs + 1):
        started, sums = time.perf_counter(), {"loss": 0.0}
        batches = task.epoch(rng)
        total = schedule.epochs * len(batches)
        module.train()
        bar = tqdm(
            batches,
            desc=f"{task.name} {epoch}/{schedule.epochs}",
            disable=not sys.stderr.isatty(),
            leave=False,
        )
        for batch in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, total, schedule)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=schedule.bf16):
                loss = task.loss(batch)
            optimizer.zero_grad()
            accelerator.backward(loss.total)
            accelerator.clip_grad_norm_(module.parameters(), schedule.clip_norm)
            optimizer.step()
            step += 1
            for name, value in {"loss": loss.total, **loss.parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        module.eval()
        with torch.inference_mode():
            validation = task.validate()
        means = {name: value / len(batches) for name, value in sums.items()}
        curve.append(EpochRecord(epoch, means.pop("loss"), means, validation, time.perf_counter() - started))
        if validation[SELECTION_METRIC] > best:
            best, best_weights, best_epoch = validation[SELECTION_METRIC], _snapshot(module), epoch
        elif epoch - best_epoch >= schedule.patience:
            break
    if best_epoch == 0:
        raise UserError(
            f"Training of the {task.name} diverged: no epoch gave a validation figure.",
            f"training of {task.name}",
            "Lower its learning_rate.",
        )
    module.load_state_dict(best_weights)
    module.eval()
    return curve
