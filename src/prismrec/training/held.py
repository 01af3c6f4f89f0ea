"""What a training task holds, found by walking its attributes: put on a device, or hashed.

Our choice over a method in every task: a table that somebody forgets to move or to hash would train on the wrong
device, or resume from a checkpoint of other data. The walk enters objects of this package, modules, tuples, lists and
dictionaries; what it does not know it refuses to hash.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

PACKAGE = __name__.partition(".")[0]
PLAIN = (str, bytes, bool, int, float, type(None))
ASIDE = frozenset({"checkpoint_seconds", "device"})  # parameters of a training that change nothing of what it learns


def place(task: Any, device: torch.device | str) -> None:
    """Put every tensor and module that a task holds on a device; tables held twice stay one."""
    moved: dict[int, Any] = {}
    for name, value in vars(task).items():
        setattr(task, name, on(value, device, moved))


def on(thing: Any, device: torch.device | str, moved: dict[int, Any] | None = None) -> Any:
    """A thing with its tensors on a device. Modules and objects are changed in place, tuples made anew.

    Args:
        moved: what was moved already, by identity.
    """
    moved = {} if moved is None else moved
    if id(thing) in moved:
        return moved[id(thing)]
    result = thing
    if isinstance(thing, Tensor | nn.Module):
        result = thing.to(device)
    elif isinstance(thing, tuple | list | dict):
        result = _container_on(thing, device, moved)
    elif _ours(thing):
        moved[id(thing)] = thing  # before its parts: they may refer to it
        for name, value in vars(thing).items():
            part = on(value, device, moved)
            if part is not value:
                setattr(thing, name, part)
    moved[id(thing)] = result
    return result


def _container_on(thing: Any, device: torch.device | str, moved: dict[int, Any]) -> Any:
    """The same container where nothing in it moves, which leaves frozen owners alone."""
    before = list(thing.values() if isinstance(thing, dict) else thing)
    after = [on(part, device, moved) for part in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return thing
    if isinstance(thing, dict):
        return dict(zip(thing, after, strict=True))
    return type(thing)(*after) if hasattr(thing, "_fields") else type(thing)(after)


def digest(*things: Any) -> str:
    """SHA-256 over everything the things hold: weights, tables, parameters, states of generators."""
    found = hashlib.sha256()
    seen: dict[int, Any] = {}
    for thing in things:
        _update(found, thing, seen, top=True)
    return found.hexdigest()


def _update(found: Any, thing: Any, seen: dict[int, Any], top: bool = False) -> None:
    if isinstance(thing, PLAIN):
        found.update(f"{type(thing).__name__} {thing!r};".encode())
    elif id(thing) in seen:
        found.update(b"again;")
    elif isinstance(thing, np.ndarray | Tensor):
        _update_array(found, thing)
    elif isinstance(thing, torch.Generator):
        _update_array(found, thing.get_state())
    elif isinstance(thing, BaseModel):
        found.update(json.dumps(without_aside(thing.model_dump(mode="json"))).encode())
    elif isinstance(thing, tuple | list):
        found.update(f"{len(thing)} of {type(thing).__name__};".encode())
        for part in thing:
            _update(found, part, seen)
    elif callable(thing) and not isinstance(thing, nn.Module):
        found.update(getattr(thing, "__qualname__", type(thing).__name__).encode())
    else:
        for name, value in sorted(_members(thing, top).items()):
            found.update(f"{name}=".encode())
            _update(found, value, seen)
    seen[id(thing)] = thing  # kept alive: an identity is not given twice


def without_aside(values: Any) -> Any:
    """Plain parameters, at any depth, but for those that change nothing of what is learnt."""
    if isinstance(values, dict):
        return {key: without_aside(value) for key, value in values.items() if key not in ASIDE}
    return [without_aside(value) for value in values] if isinstance(values, list) else values


def _members(thing: Any, top: bool) -> dict[str, Any]:
    if isinstance(thing, nn.Module | dict):
        return dict(thing.state_dict() if isinstance(thing, nn.Module) else thing)
    assert top or _ours(thing), f"nothing is known of a {type(thing)}"
    return dict(vars(thing))


def _update_array(found: Any, array: np.ndarray | Tensor) -> None:
    found.update(f"{array.dtype} {tuple(array.shape)};".encode())
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()  # torch warns of sharing memory that cannot be written to
    raw = torch.as_tensor(array).detach().cpu().contiguous()
    found.update(raw.flatten().view(torch.uint8).numpy().data if raw.numel() else b"")


def _ours(thing: Any) -> bool:
    """Whether an object is of one of this package's classes, and holds attributes to walk."""
    ours = type(thing).__module__.partition(".")[0] == PACKAGE
    return ours and hasattr(thing, "__dict__") and not isinstance(thing, BaseModel | nn.Module | type)
