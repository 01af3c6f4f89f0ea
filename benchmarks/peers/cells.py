"""Cells: one data set × one peer × one seed, as a JSON file of figures and an array of lists.

The JSON may be committed: it holds settings, times and metrics, and nothing of the data. The lists stay outside of
the repository. A cell that is there is not run again as long as it was made from the same split with the same budget
and settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

# What has to be equal for a cell to stand.
IDENTITY = ("data_set", "peer", "seed", "split_hash", "trials", "budget_seconds", "settings_hash")


def cell_path(folder: Path, data_set: str, peer: str, seed: int) -> Path:
    """Where the JSON of a cell lies; its lists lie beside it with the suffix .npz."""
    return folder / data_set / f"{peer}-{seed}.json"


def read_cell(path: Path) -> dict[str, Any] | None:
    """The cell, or None if there is none."""
    if not path.is_file():
        return None
    cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return cell


def stands(cell: dict[str, Any] | None, identity: dict[str, Any]) -> bool:
    """Whether a cell need not be run again; a failed one stands too, for its reason is a result."""
    return cell is not None and all(cell.get(key) == identity[key] for key in IDENTITY)


def write_cell(path: Path, cell: dict[str, Any], lists_UK: np.ndarray | None = None) -> None:
    """Write a cell's JSON, and its lists first, so that a JSON never stands without them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if lists_UK is not None:
        np.savez_compressed(path.with_suffix(".npz"), lists=lists_UK.astype(np.int32))
    text = json.dumps(cell, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_lists(path: Path) -> np.ndarray | None:
    """The lists of a cell, int32 [U, K], -1 padded; None where they are not here."""
    lists = path.with_suffix(".npz")
    if not lists.is_file():
        return None
    with np.load(lists) as arrays:
        return np.asarray(arrays["lists"])
