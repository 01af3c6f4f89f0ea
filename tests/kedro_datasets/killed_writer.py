"""A writer that is killed again and again, and a reader of what is left; run as a process of its own.

    python killed_writer.py FOLDER KILLS SEED

One parent imports everything once and forks a child for each round: the child saves new versions of all
dataset types until it is killed at a random moment. Then another child loads the latest version of each,
checks that it is whole, and says so by its exit code. The parent prints JSON: the kills, how many of them
hit a save in its middle, and the versions seen. Forks need a parent without threads, hence no test process.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl

from prismrec.artifacts.manifest import damage
from prismrec.artifacts.model_folder import read_config, write_model
from prismrec.kedro_datasets import (
    ArtefactDataset,
    FileDataset,
    FolderDataset,
    JsonDataset,
    ModelDataset,
    ParquetDataset,
    TensorsDataset,
)

SIZE = 40_000


class Model:
    kind = "toy"

    def __init__(self, number: int) -> None:
        self.number = number

    def save(self, folder: Path) -> None:
        write_model(folder, self.kind, {"number": self.number}, {"weights": np.full(SIZE, self.number)})


def datasets(folder: Path) -> dict[str, ArtefactDataset]:
    return {
        "table": ParquetDataset(filepath=str(folder / "table.parquet")),
        "json": JsonDataset(filepath=str(folder / "json.json")),
        "tensors": TensorsDataset(filepath=str(folder / "tensors.safetensors")),
        "model": ModelDataset(filepath=str(folder / "model")),
        "folder": FolderDataset(filepath=str(folder / "folder")),
        "file": FileDataset(filepath=str(folder / "file.html")),
    }


def content(name: str, number: int) -> object:
    """Return data in which every part says the same number, so that a torn version would show."""
    return {
        "table": lambda: pl.DataFrame({"n": np.full(SIZE, number), "m": np.full(SIZE, number)}),
        "json": lambda: {"a": [number] * (SIZE // 10), "z": number},
        "tensors": lambda: {"a": np.full(SIZE, number), "z": np.full(3, number)},
        "model": lambda: Model(number),
        "folder": lambda: {"a/one": str(number), "b": str(number) * SIZE, "z": str(number)},
        "file": lambda: f"{number} " * SIZE,
    }[name]()


def number_in(name: str, loaded: object) -> int:
    """Return the one number that a loaded version holds everywhere."""
    found: set[int] = {
        "table": lambda: set(loaded["n"].unique()) | set(loaded["m"].unique()),
        "json": lambda: {*loaded["a"], loaded["z"]},
        "tensors": lambda: set(loaded["a"]) | set(loaded["z"]),
        "model": lambda: {loaded["number"]},
        "folder": lambda: {int((loaded / part).read_text()[0]) for part in ("a/one", "b", "z")},
        "file": lambda: set(map(int, loaded.split())),
    }[name]()
    assert len(found) == 1, f"{name} is torn: {found}"
    return int(found.pop())


def write_all(folder: Path, number: int = 0, first: int = 0) -> None:
    found = list(datasets(folder).items())
    for name, dataset in found[first:] + found[:first]:
        dataset.save(content(name, number % 10))


def write_forever(folder: Path, first: int) -> None:
    number = 0
    while True:
        write_all(folder, number, first)
        number += 1


def check_latest(folder: Path) -> None:
    for name, dataset in datasets(folder).items():
        if not dataset.exists():
            continue
        number_in(name, dataset.load())
        for version in versions_of(folder / dataset._filepath.name):
            manifest = dataset.manifest()
            assert manifest is not None
            assert (version / "manifest.json").is_file()
        assert damage(dataset.manifest(), dataset.payload()) is None


def versions_of(entry: Path) -> list[Path]:
    return list(entry.glob("[!.]*"))


def child(work: Callable[[Path], None], folder: Path) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work(folder)
        code = 0
    finally:
        os._exit(code)


def main(folder: Path, kills: int, seed: int) -> None:
    models = ModuleType("prismrec.models")
    vars(models)["load_model"] = read_config
    sys.modules["prismrec.models"] = models
    draw = random.Random(seed)
    hit = 0
    started = time.perf_counter()
    os.waitpid(child(write_all, folder), 0)
    entries = {name: dataset._filepath.name for name, dataset in datasets(folder).items()}
    names = list(entries)
    # The moment that half the kills come after, found for each kind on the way: saves are of unlike lengths, and
    # a busy machine is slower at times.
    middle = dict.fromkeys(names, (time.perf_counter() - started) / 3)
    for kill in range(kills):
        first = kill % len(names)
        name = names[first]
        before = len(versions_of(folder / entries[name]))
        writer = child(partial(write_forever, first=first), folder)
        time.sleep(draw.uniform(0.0, 2.0) * middle[name])
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        hit += any(folder.glob("*/.tmp-*/*"))
        saved = len(versions_of(folder / entries[name])) > before
        middle[name] *= 1 / 1.1 if saved else 1.2  # two rounds of three save a version, and are hit after it
        _, status = os.waitpid(child(check_latest, folder), 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the latest version is broken"
    versions = {entry.name: len(versions_of(entry)) for entry in folder.iterdir()}
    print(json.dumps({"kills": kills, "in_the_middle": hit, "versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
