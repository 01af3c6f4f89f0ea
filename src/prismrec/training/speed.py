"""How fast a training was: predictions a second, padding, and the share of the machine's arithmetic it used.

Model FLOP utilisation = FLOPs of forward and backward passes / (seconds × the matmul peak measured here, in the
precision of training). FLOPs are counted on one batch of middling size and scaled by the slots of all of them.
What gradient checkpointing computes a second time is no work of the model, and does not count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # side of the square matrices multiplied
PEAK_TRIALS = 8


class Work(NamedTuple):
    """What a batch amounts to."""

    users: int
    positions: int  # events whose next event is predicted by a loss
    events: int  # read by the model
    slots: int  # events and padding

    def __add__(self, other: Any) -> Work:
        return Work(*(mine + its for mine, its in zip(self, other, strict=True)))


NO_WORK = Work(0, 0, 0, 0)


@dataclass
class Meter:
    """Work done and the time it took in this process, without validation."""

    work: Work = NO_WORK
    seconds: float = 0.0

    def report(self, flops_per_slot: float, peak: float) -> dict[str, float]:
        """The figures of a training, for its log line and its stage's run.json.

        Args:
            flops_per_slot: FLOPs of all processes for one slot.
            peak: FLOPs a second of all processes' devices.
        """
        return {
            "positions_per_second": round(self.work.positions / self.seconds, 1),
            "padding_waste": round(1.0 - self.work.events / self.work.slots, 4),
            "model_flop_utilisation": round(flops_per_slot * self.work.slots / (self.seconds * peak), 4),
            "matmul_peak_gflops": round(peak / 1e9, 1),
            "seconds": round(self.seconds, 3),
        }


class ModelFlops(FlopCounterMode):
    """Counts the FLOPs of a forward and a backward pass, but not those of a forward pass inside the backward one.

    Attributes:
        backward: to be set when the backward pass begins. Autograd's own formulas run with gradients off; what runs
            with gradients on from then on is gradient checkpointing, which computes activations anew.
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.backward = False

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if self.backward and torch.is_grad_enabled():
            return out
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=8)
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a large square product on this device: the best of a few."""
    size = PEAK_SIZE.get(device.type, PEAK_SIZE["cuda"])
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(PEAK_TRIALS):
        _wait_for(device)
        started = time.perf_counter()
        left @ right
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
