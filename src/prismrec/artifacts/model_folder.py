"""A model on disk: a folder of `model.safetensors` and `config.json`, written with the same bytes each time.

Our choice: no pickle anywhere. `config.json` names the model's `kind`, from which
`prismrec.models.load_model` finds the class. The files are written in place; whoever needs the folder
to appear all at once wraps the call in `prismrec.artifacts.atomic.atomic_folder`, as the Kedro
datasets do.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prismrec.errors import MissingArtefact

if TYPE_CHECKING:
    import torch

CONFIG_NAME = "config.json"
TENSORS_NAME = "model.safetensors"


def dump_json(value: Any) -> str:
    """Deterministic JSON text: sorted keys, indent 2, a trailing newline.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
        TypeError: for what is not plain data.
    """
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor | np.ndarray]") -> None:
    """Write tensors as one safetensors file, with the same bytes whatever the mapping's order.

    Args:
        path: the file, overwritten.
        tensors: numpy arrays, torch tensors, or a mixture of the two; torch is imported only when a
            tensor is given, and keeps bfloat16, which numpy does not have.
    """
    if all(isinstance(value, np.ndarray) for value in tensors.values()):
        from safetensors.numpy import save_file as save_arrays

        save_arrays({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, path)
        return
    import torch
    from safetensors.torch import save_file as save_tensors

    # A clone: safetensors refuses tensors that share memory, as tied weights do.
    copies = {name: torch.as_tensor(tensors[name]).detach().cpu().clone() for name in sorted(tensors)}
    save_tensors({name: copy.contiguous() for name, copy in copies.items()}, path)


def write_model(
    folder: Path, kind: str, config: dict[str, Any], tensors: "Mapping[str, torch.Tensor | np.ndarray]"
) -> None:
    """Write a model folder.

    Args:
        folder: made if it does not exist; nothing else in it is touched.
        kind: name under which `prismrec.models.load_model` finds the class again.
        config: plain JSON data, everything but the tensors; it must not hold another "kind".
        tensors: the weights by name.
    """
    assert config.get("kind", kind) == kind, f"the config says kind {config['kind']!r}, not {kind!r}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(dump_json({**config, "kind": kind}), encoding="utf-8")
    write_tensors(folder / TENSORS_NAME, tensors)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the model's config, "kind" included.

    Raises:
        MissingArtefact: if the folder is not a model folder or its config cannot be read.
    """
    path = _existing(folder, CONFIG_NAME)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingArtefact("This model's config is not JSON.", str(path), "Train the model again.") from error
    if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
        raise MissingArtefact('This model\'s config names no "kind".', str(path), "Train the model again.")
    return config


def read_tensors(folder: Path) -> "dict[str, torch.Tensor]":
    """Return the model's tensors by name, on the CPU.

    Raises:
        MissingArtefact: if the folder is not a model folder or its tensors cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _existing(folder, TENSORS_NAME)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        raise MissingArtefact("This model's tensors are damaged.", str(path), "Train the model again.") from error
    return tensors


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise MissingArtefact(f"This is not a model folder: it holds no {name}.", str(folder), "Train the model first.")
    return path
