"""What a run costs: wall clock, peak memory, machine."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")


class Cost(NamedTuple):
    """What a piece of work cost.

    Attributes:
        seconds: wall clock.
        cpu_seconds: of all threads of this process; tells how much of the machine it got.
        peak_mb: the process's peak resident memory meanwhile, what was loaded before included; None where the kernel
            cannot count the peak anew (not Linux).
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float | None

    def as_dict(self) -> dict[str, float | None]:
        """For a cell's JSON."""
        return {"seconds": round(self.seconds, 2), "cpu_seconds": round(self.cpu_seconds, 2), "peak_mb": self.peak_mb}


def measured(work: Callable[[], Result]) -> tuple[Result, Cost]:
    """Do the work; return what it returned, and its cost."""
    own = _reset_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return result, Cost(seconds, cpu_seconds, _peak_mb() if own else None)


def machine() -> dict[str, Any]:
    """Cores, threads and versions that times depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": cores,
        "threads": os.environ.get("OMP_NUM_THREADS", str(cores)),
        "cpu": _cpu(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found, "Linux always states VmHWM"
    return round(int(found.group(1)) * 1024 / 1e6, 1)
