"""Where the time of a recommendation goes: seconds by step, the networks' own measured from outside.

Notable: `watch` hooks into a module, so that models and rankers know nothing of it. One pass at a time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Stopwatch:
    """Adds up the seconds of each step until `take` reads them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._started = 0.0

    def watch(self, module: nn.Module, step: str) -> None:
        """Count every forward pass of a module as this step."""

        def start(*_: Any) -> None:
            self._started = time.perf_counter()

        def stop(*_: Any) -> None:
            self._seconds[step] += time.perf_counter() - self._started

        module.register_forward_pre_hook(start)
        module.register_forward_hook(stop)

    @contextmanager
    def rest(self, step: str) -> Iterator[None]:
        """Count what the block takes as this step, without what other steps took meanwhile."""
        before, started = sum(self._seconds.values()), time.perf_counter()
        yield
        others = sum(self._seconds.values()) - before
        self._seconds[step] += time.perf_counter() - started - others

    def take(self) -> dict[str, float]:
        """The seconds of every step so far; the watch starts anew."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken
