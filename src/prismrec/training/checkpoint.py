"""Where an interrupted training goes on: its whole state in a folder that appears at once or not at all.

A checkpoint is safetensors plus JSON. It belongs to one training, told by its identity: a hash of everything the
result depends on. One of another identity is of no use, and is removed. Only the newest stays on the disk.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from prismrec.artifacts.atomic import TEMPORARY_PREFIX, atomic_folder, remove_folder
from prismrec.artifacts.model_folder import write_tensors

STATE_NAME = "state.json"
TENSORS_NAME = "tensors.safetensors"

logger = logging.getLogger(__name__)


class State(NamedTuple):
    """All of a training: tensors by dotted name, and plain JSON data (NaN and infinities included)."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoint:
    """The newest state of one training.

    Args:
        folder: the training's own folder; made when the first state is saved.
        title: the training in words, for the log.
        identity: hash of everything the result depends on.
    """

    def __init__(self, folder: Path, title: str, identity: str) -> None:
        self.folder, self.title, self.identity = folder, title, identity

    def load(self) -> State | None:
        """The newest state of this very training; None where there is none."""
        for version in self._versions()[-1:]:
            facts = json.loads((version / STATE_NAME).read_text(encoding="utf-8"))
            if facts.pop("identity") == self.identity:
                return State(load_file(version / TENSORS_NAME), facts)
            logger.info(
                "Training of the %s starts afresh: its checkpoint is of other weights, data, "
                "parameters or versions.", self.title,
            )  # fmt: skip
        return None

    def clear(self) -> None:
        """Remove every state."""
        for version in self._versions():
            remove_folder(version)

    def save(self, state: State, name: str) -> None:
        """Write a state, unless it is there; then remove the others.

        Args:
            name: of the state; later ones sort later.
        """
        target = self.folder / name
        older = [version for version in self._versions() if version != target]
        if not target.exists():
            with atomic_folder(target) as temporary:
                write_tensors(temporary / TENSORS_NAME, state.tensors)
                facts = json.dumps({**state.facts, "identity": self.identity}, sort_keys=True)
                (temporary / STATE_NAME).write_text(facts, encoding="utf-8")
        for version in older:
            remove_folder(version)

    def _versions(self) -> list[Path]:
        """Complete states, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and step counts by name: `moments.<parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"moments.{index}.{name}": tensor for index, of in state.items() for name, tensor in of.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put packed moments back into an optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("moments."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `<prefix>.…`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
