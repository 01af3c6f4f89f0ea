"""The one training loop: every model that learns by gradient steps is a `Task` run by `fit`.

AdamW with warm-up and cosine decay, gradient clipping, bf16 autocast where asked for and made for the device,
validation after every epoch; the weights of the best epoch are kept, and training stops when `patience` epochs bring
nothing better. Where an earlier training has settled how many epochs are best (a final fit), so many are trained, and
nothing is validated.

A task that begins at a model of its own worth lets the *start* compete: it is validated as epoch 0, and kept where no
epoch is better. Patience counts trained epochs alone, since the first ones, at the highest rates, may lie below it.

Notable:
- *One code path for one device and for many.* A batch is cut into shares of users: one for every process, and again
  for every micro-batch of gradient accumulation. Each share's loss is its rows' part of the whole batch's mean, so
  gradients are summed, and any number of shares takes the same step. Random choices are made for the whole batch by
  every process alike, from the task's own generator, before a share is cut from it. accelerate finds the devices and
  carries the sums; we reduce by hand, since a task's loss is no single `forward` of a module.
- *A killed training goes on where it was* and ends with the same bytes: see `checkpoint.py`. Dropout of the first
  process draws from torch's global generator, whose state is saved; other processes seed theirs at every step.
- Progress bars show on a terminal only.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import prismrec
from prismrec.artifacts.stage_record import note_cost
from prismrec.errors import UserError
from prismrec.models.precision import autocast, precision
from prismrec.parameters.training import TrainingParameters
from prismrec.training import held
from prismrec.training.checkpoint import Checkpoint, State, pack_optimizer, under, unpack_optimizer
from prismrec.training.memory import keep_freed_memory
from prismrec.training.speed import Meter, ModelFlops, Work, matmul_peak

SELECTION_METRIC = "ndcg@10"
SOURCE = Path(prismrec.__file__).parent
ROOMS = ("models", "training")  # whose code a training's outcome rests on, beside its parameters

logger = logging.getLogger(__name__)


class Share(NamedTuple):
    """One of so many about equal parts of a batch's users."""

    part: int = 0
    parts: int = 1

    def of(self, users: int) -> slice:
        """The users of a batch of so many that are the share's; none is left out or taken twice."""
        return slice(self.part * users // self.parts, (self.part + 1) * users // self.parts)


WHOLE = Share()


class Loss(NamedTuple):
    """What is minimised, and its parts for the training curve."""

    total: Tensor
    parts: dict[str, Tensor]


def part_of_mean(mean: Tensor, rows: int, all_rows: int) -> Tensor:
    """What a share with so many of all rows adds to the mean over all; nothing where it has none.

    Args:
        mean: over the share's rows; not a number where there are none.
    """
    return mean * (rows / all_rows) if rows else torch.zeros((), device=mean.device, requires_grad=True)


class Task(Protocol):
    """What differs from model to model."""

    name: str
    generator: torch.Generator  # of all that `loss` draws but dropout; on the CPU
    start_competes: bool  # whether the weights it begins with are kept where no epoch is better

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def epoch(self, rng: np.random.Generator) -> Sequence[Any]:
        """The batches of one epoch; the same number each time."""

    def size(self, batch: Any) -> Work:
        """What a batch amounts to."""

    def loss(self, batch: Any, share: Share = WHOLE) -> Loss:
        """A share's part of the batch's loss: the parts of all shares sum to the loss of the whole.

        Every share draws the same numbers from the generator: those of the whole batch. None is without users.
        """

    def validate(self) -> dict[str, float]:
        """Metrics on the validation events; "ndcg@10" picks the epoch, higher is better."""


class EpochRecord(NamedTuple):
    """One line of a training curve; epoch 0 is the start, which has no loss."""

    epoch: int
    loss: float | None
    parts: dict[str, float]
    validation: dict[str, float]
    seconds: float

    def as_dict(self, with_time: bool = False) -> dict[str, Any]:
        """Plain data; without the wall time the record is the same in every run."""
        record = self._asdict()
        return record if with_time else {key: value for key, value in record.items() if key != "seconds"}


@dataclass
class Progress:
    """How far a training is: the plain part of its state."""

    epoch: int = 1
    batch: int = 0  # batches of this epoch that are done
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the losses of this epoch's batches
    seconds: float = 0.0  # spent on this epoch
    best: float = -math.inf  # of the trained epochs
    best_epoch: int = 0
    start: float = -math.inf  # of the weights it began with, where they compete
    curve: list[EpochRecord] = field(default_factory=list)


def learning_rate_at(step: int, total: int, schedule: TrainingParameters) -> float:
    """Linear warm-up, then cosine decay to zero."""
    warm_up = max(1, round(schedule.warmup_share * total))
    if step < warm_up:
        return schedule.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up)
    return schedule.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _optimizer(module: nn.Module, schedule: TrainingParameters) -> torch.optim.Optimizer:
    """AdamW; a parameter with a `rate_share`, as a pretrained text encoder's, learns at that share of the rate."""
    sorted_out: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            decay = schedule.weight_decay if parameter.ndim >= 2 else 0.0
            sorted_out.setdefault((getattr(parameter, "rate_share", 1.0), decay), []).append(parameter)
    groups = [{"params": found, "weight_decay": d, "rate_share": share} for (share, d), found in sorted_out.items()]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=False)


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Make torch choose algorithms whose sums do not depend on how threads are timed, for as long as this lasts."""
    deterministic: Any = torch.utils.deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's matrix products ask for it
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over every tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        deterministic.fill_uninitialized_memory = before[1]


@repeatable()
def fit(
    task: Task, schedule: TrainingParameters, seed: int, checkpoints: Path | None = None, epochs: int | None = None
) -> list[EpochRecord]:
    """Train `task.module` in place; it ends with the weights of the best epoch, in evaluation mode, on the CPU.

    Args:
        checkpoints: folder in which the training keeps its state, in a folder named after the task, to be resumed
            from; the caller removes it once the weights are saved. None: nothing is kept.
        epochs: train exactly so many, at the learning rates of `schedule`'s first ones, and validate none; the weights
            are those of the last, or the start's with 0. None: validation picks the epoch.

    Returns:
        One record an epoch, the last one possibly short of `schedule.epochs` (early stopping); where the start
        competes, its record comes first.

    Raises:
        UserError: no epoch gave a validation figure, or none of a settled number a finite loss.
    """
    keep_freed_memory()
    accelerator = _accelerator(schedule)
    keeper = None
    if checkpoints is not None and schedule.checkpoint_seconds > 0:
        keeper = _checkpoint(checkpoints, task, schedule, seed, accelerator, epochs)
    held.place(task, accelerator.device)
    try:
        training = _Training(task, schedule, seed, accelerator, keeper, epochs)
        training.resume()
        training.run()
        training.print_speed()
        training.end()
    finally:
        held.place(task, "cpu")
    return training.progress.curve


def _accelerator(schedule: TrainingParameters) -> Any:
    """The devices, and the other processes if there are any.

    Raises:
        UserError: processes were started that do not find each other.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    alone = not PartialState._shared_state or PartialState().num_processes == 1
    if alone:  # it keeps the first device it was asked for; the next stage may want another
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=schedule.device == "cpu" or not torch.accelerator.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:  # each would train by itself, and all would write
        raise UserError(
            f"{launched} processes were started, but this one trains with {accelerator.num_processes - 1} others.",
            "WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
            "Start them with torchrun or accelerate launch: see docs/how-to/train-on-gpus.md",
        )
    return accelerator


def _checkpoint(
    folder: Path, task: Task, schedule: TrainingParameters, seed: int, accelerator: Any, epochs: int | None
) -> Checkpoint:
    """The checkpoint of this very training; how often it saves, and what the machine is called, do not matter."""
    machine = [accelerator.device.type, accelerator.num_processes]
    versions = [torch.__version__, prismrec.__version__, _source()]
    identity = held.digest(task.name, schedule, epochs, seed, machine, versions, task.start_competes, task)
    return Checkpoint(folder / re.sub(r"\W+", "_", task.name.lower()), task.name, identity)


def _source() -> str:
    """SHA-256 of the code that trains: an update under way would mix what two of its states have learned."""
    found = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((SOURCE / room).glob("*.py")):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


class _Training:
    """A training under way."""

    def __init__(
        self,
        task: Task,
        schedule: TrainingParameters,
        seed: int,
        accelerator: Any,
        keeper: Checkpoint | None,
        epochs: int | None,
    ) -> None:
        self.task, self.schedule, self.seed, self.settled = task, schedule, seed, epochs
        self.accelerator, self.keeper = accelerator, keeper
        self.module, self.device = task.module, accelerator.device
        self.optimizer = accelerator.prepare(_optimizer(self.module, schedule))
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.progress = Progress()
        self.start_weights = self.best_weights = _snapshot(self.module)
        self.epoch_start = self.rng.bit_generator.state  # the batches of an epoch follow from it
        self.saved_at = time.monotonic()
        self.meter = Meter()
        self.batches: Sequence[Any] = []
        self.diverged = False

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, `patience` of them brought nothing better, or one diverged."""
        if self.diverged:
            return True
        done = self.progress.epoch - 1
        if self.settled is not None:
            return done >= self.settled
        waited = done - self.progress.best_epoch
        return done >= self.schedule.epochs or (done > 0 and waited >= self.schedule.patience)

    @property
    def keeps_start(self) -> bool:
        """Whether the weights it began with are the best so far, or all that is asked for."""
        start, best = self.progress.start, self.progress.best
        return self.settled == 0 or (start > -math.inf and start >= best)

    def run(self) -> None:
        """Train until it is finished."""
        if self.task.start_competes and self.settled is None and not self.progress.curve:
            self._validate_start()
        while not self.finished:
            self._epoch()

    def end(self) -> None:
        """Leave the module with the weights of the best epoch, or of the start.

        Raises:
            UserError: there are none.
        """
        if self.keeps_start:
            logger.info("Training of the %s: the weights it began with are kept.", self.task.name)
            self.best_weights = self.start_weights
        elif self.progress.best_epoch == 0:
            if self.keeper is not None and self.accelerator.is_main_process:
                self.keeper.clear()
            raise UserError(
                f"Training of the {self.task.name} diverged: no epoch gave a figure to go by.",
                f"training of {self.task.name}",
                "Lower its learning_rate.",
            )
        self.module.load_state_dict(self.best_weights)
        self.module.eval()

    def _epoch(self) -> None:
        progress = self.progress
        started = time.perf_counter() - progress.seconds
        self.epoch_start = self.rng.bit_generator.state
        self.batches = self.task.epoch(self.rng)
        total = self.schedule.epochs * len(self.batches)
        self.module.train()
        with self._measured():
            for batch in self._bar(self.batches[progress.batch :]):
                self._step(batch, total)
                progress.seconds = time.perf_counter() - started
                self._save_if_time()
        self.diverged = self._has_diverged()
        if not self.diverged:
            self._validate(started)
            self._save()

    def _has_diverged(self) -> bool:
        """Whether loss or weights are no numbers any more, the same on all processes; said, since the run then ends."""
        found = [torch.as_tensor(self.progress.sums["loss"]), *self.module.parameters()]
        if all(bool(tensor.isfinite().all()) for tensor in found):
            return False
        best = self.progress.best_epoch
        kept = f"the weights of epoch {best} are kept" if best else "there are no weights to keep"
        if self.keeps_start:
            kept = "the weights it began with are kept"
        logger.warning("Training of the %s diverged in epoch %d: %s.", self.task.name, self.progress.epoch, kept)
        return True

    def _step(self, batch: Any, total: int) -> None:
        progress = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(progress.step, total, self.schedule) * group["rate_share"]
        self.optimizer.zero_grad()
        values = self._gradients(batch)
        if self.accelerator.num_processes > 1:
            values = self._sum_over_processes(values)
        self.accelerator.clip_grad_norm_(self.module.parameters(), self.schedule.clip_norm)
        self.optimizer.step()
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value.double()  # type: ignore[assignment]
        progress.step += 1
        progress.batch += 1
        self.meter.work += self.task.size(batch)

    def _gradients(self, batch: Any) -> dict[str, Tensor]:
        """Losses of this process's shares of the batch, whose gradients add up on the parameters."""
        if not self.accelerator.is_main_process:
            torch.manual_seed(hash((self.seed, self.progress.step, self.accelerator.process_index)))
        users, number = self.task.size(batch).users, self.schedule.accumulation
        first, of = self.accelerator.process_index * number, self.accelerator.num_processes * number
        of = min(of, users)
        state, batch = self.task.generator.get_state(), held.on(batch, self.device)
        values: dict[str, Tensor] = {}
        for index in range(first, first + number):
            idle = index >= of  # fewer users than shares: take part in the draws and in the sums, with nothing
            self.task.generator.set_state(state)
            with autocast(self.device.type, self.schedule.bf16):
                loss = self.task.loss(batch, Share(0 if idle else index, of))
            if idle:
                loss = Loss(loss.total * 0.0, {name: part * 0.0 for name, part in loss.parts.items()})
            self.accelerator.backward(loss.total)
            for name, value in {"loss": loss.total, **loss.parts}.items():
                values[name] = values[name] + value.detach() if name in values else value.detach()
        return values

    def _sum_over_processes(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum gradients and losses of all processes, in one message."""
        trained = [p for p in self.module.parameters() if p.requires_grad]
        reached = torch.tensor([float(p.grad is not None) for p in trained], device=self.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        parts = [*gradients, reached, *values.values()]
        summed = self.accelerator.reduce(torch.cat([part.flatten().float() for part in parts]), "sum")
        pieces = summed.split([part.numel() for part in parts])
        used = pieces[len(trained)] > 0
        for parameter, piece, is_used in zip(trained, pieces[: len(trained)], used.tolist(), strict=True):
            parameter.grad = piece.view_as(parameter) if is_used else None
        return {name: piece[0] for name, piece in zip(values, pieces[len(trained) + 1 :], strict=True)}

    def _figures(self) -> dict[str, float]:
        """What the first process finds in validation; nothing in a training of a settled number of epochs."""
        from accelerate.utils import broadcast_object_list

        self.module.eval()
        found: list[dict[str, float]] = [{}]
        if self.accelerator.is_main_process and self.settled is None:
            with torch.inference_mode():
                found = [self.task.validate()]
        figures: dict[str, float] = broadcast_object_list(found)[0]
        return figures

    def _validate_start(self) -> None:
        started = time.perf_counter()
        figures = self._figures()
        self.progress.start = figures[SELECTION_METRIC]
        self.progress.curve.append(EpochRecord(0, None, {}, figures, time.perf_counter() - started))

    def _validate(self, started: float) -> None:
        """Rank, and close the epoch."""
        progress, validation = self.progress, self._figures()
        means = {name: float(value) / len(self.batches) for name, value in progress.sums.items()}
        seconds = time.perf_counter() - started
        loss = means.pop("loss")
        progress.curve.append(EpochRecord(progress.epoch, loss, means, validation, seconds))
        # Of a settled number of epochs the last one is the best, unless its loss is no number.
        figure = validation[SELECTION_METRIC] if self.settled is None else progress.epoch + 0.0 * loss
        if figure > progress.best:
            progress.best, progress.best_epoch = figure, progress.epoch
            self.best_weights = _snapshot(self.module)
        progress.epoch, progress.batch, progress.sums, progress.seconds = progress.epoch + 1, 0, {}, 0.0
        self.epoch_start = self.rng.bit_generator.state

    def _bar(self, batches: Sequence[Any]) -> Any:
        from tqdm import tqdm

        shown = sys.stderr.isatty() and self.accelerator.is_main_process
        title = f"{self.task.name} {self.progress.epoch}/{self.schedule.epochs}"
        return tqdm(batches, desc=title, disable=not shown, leave=False)

    def _save_if_time(self) -> None:
        if self.keeper is not None and time.monotonic() - self.saved_at >= self.schedule.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        if self.keeper is None or not self.accelerator.is_main_process:
            return
        progress = self.progress
        progress.sums = {name: float(value) for name, value in progress.sums.items()}
        tensors = {
            **{f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()},
            **{f"best.{name}": tensor for name, tensor in self.best_weights.items()},
            **pack_optimizer(self.optimizer),
            **self._generator_states(),
        }
        facts = {"progress": asdict(progress), "epoch_start": self.epoch_start}
        self.keeper.save(State(tensors, facts), f"{progress.step:09d}-{progress.epoch:05d}")
        self.saved_at = time.monotonic()

    def _generator_states(self) -> dict[str, Tensor]:
        states = {"random.task": self.task.generator.get_state(), "random.torch": torch.get_rng_state()}
        return states if self.device.type == "cpu" else {**states, "random.cuda": torch.cuda.get_rng_state(self.device)}

    def resume(self) -> None:
        """Take up the state of this very training, if one was kept.

        Raises:
            UserError: not all processes find the same state.
        """
        from accelerate.utils import gather_object

        if self.keeper is None:
            return
        state = self.keeper.load()
        steps = gather_object([-1 if state is None else state.facts["progress"]["step"]])
        if len(set(steps)) > 1:
            raise UserError(
                f"The processes of this training find different checkpoints (steps {steps}).",
                str(self.keeper.folder),
                "Put the workspace on a disk that all machines share.",
            )
        if state is not None:
            self._take_up(state)
        elif self.accelerator.is_main_process:
            self.keeper.clear()

    def _take_up(self, state: State) -> None:
        tensors, facts = state
        self.module.load_state_dict(under("weights", tensors))
        self.best_weights = {name: tensor.to(self.device) for name, tensor in under("best", tensors).items()}
        unpack_optimizer(self.optimizer, tensors)
        self.task.generator.set_state(tensors["random.task"])
        torch.set_rng_state(tensors["random.torch"])
        if self.device.type != "cpu":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.rng.bit_generator.state = facts["epoch_start"]
        self.progress = Progress(**facts["progress"])
        self.progress.curve = [EpochRecord(*record) for record in self.progress.curve]
        if self.accelerator.is_main_process:
            found = self.progress
            where = "after its last epoch" if self.finished else f"at epoch {found.epoch}, step {found.step}"
            logger.info("Training of the %s: resuming %s.", self.task.name, where)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        """Count the time of an epoch's steps, until the device is done with them."""
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.meter.seconds += time.perf_counter() - started

    def print_speed(self) -> None:
        """Log how fast this process's part of the training was, and note it for the stage's run.json."""
        if not self.meter.work.slots or not self.accelerator.is_main_process:
            return
        dtype = precision(self.device.type, self.schedule.bf16)
        processes = self.accelerator.num_processes
        figures = self.meter.report(self._flops_per_slot(), matmul_peak(self.device, dtype) * processes)
        figures["processes"] = processes
        note_cost(self.task.name, figures)
        logger.info(
            "Training of the %s: %s positions/s, %.1f %% padding, %.1f %% of the matmul peak (%.0f GFLOP/s).",
            self.task.name, f"{figures['positions_per_second']:,.0f}", 100 * figures["padding_waste"],
            100 * figures["model_flop_utilisation"], figures["matmul_peak_gflops"],
        )  # fmt: skip

    def _flops_per_slot(self) -> float:
        """FLOPs of forward and backward, counted on the batch of middling size; the training's state stays."""
        sizes = [self.task.size(batch).slots for batch in self.batches]
        middle = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
        of = min(
            self.accelerator.num_processes * self.schedule.accumulation, self.task.size(self.batches[middle]).users
        )
        before = self.task.generator.get_state()
        counter = ModelFlops()
        self.module.train()
        with torch.random.fork_rng(), counter, torch.compiler.set_stance("force_eager"):
            with autocast(self.device.type, self.schedule.bf16):
                loss = self.task.loss(held.on(self.batches[middle], self.device), Share(0, of))
            counter.backward = True
            self.accelerator.backward(loss.total)
        self.optimizer.zero_grad()
        self.task.generator.set_state(before)
        flops: float = counter.get_total_flops() * of / max(1, sizes[middle])
        return flops
