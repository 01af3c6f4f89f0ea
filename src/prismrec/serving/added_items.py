"""Items added while serving: generations on disk, outside of any bundle, which all workers read.

    <folder>/00000007/items.jsonl            every item added or changed so far, oldest first
    <folder>/00000007/vectors.safetensors    their vectors
    <folder>/00000007/manifest.json          the bundle whose vectors these are, SHA-256 of both files

A generation holds everything, is written whole or not at all, and never changes; the highest number counts. Only one
process writes at a time (a lock on the folder, which the kernel drops with its holder); readers take no lock. Our
choices: the last `KEPT` generations stay, so that a reader is not left without the one it is reading; under another
bundle the texts count and the vectors are made anew, so that items outlive a switch of bundles. A generation is told
from others by its mark, which holds its manifest's hash: numbers are used again after somebody removed generations.

Shapes: X added items, D item dimension.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from prismrec.artifacts.atomic import atomic_folder, remove_folder, sha256_file
from prismrec.artifacts.model_folder import dump_json, write_tensors
from prismrec.errors import UserError
from prismrec.models.item_text import NewItem

ITEMS, VECTORS, MANIFEST = "items.jsonl", "vectors.safetensors", "manifest.json"
LOCK = ".lock"
DIGITS = 8
KEPT = 3
MAX_ADDED = 10_000  # all of them are written again for each addition


@dataclass(frozen=True)
class AddedItem:
    """An item as it was posted."""

    item_id: str
    title: str
    description: str = ""
    categories: tuple[str, ...] = ()

    @property
    def content(self) -> NewItem:
        """What its vector is made from."""
        return NewItem(self.title, self.description, self.categories)


@dataclass(frozen=True)
class Generation:
    """Everything that was added so far; `bundle` is the version whose vectors these are."""

    number: int
    mark: str
    bundle: str
    items: tuple[AddedItem, ...]
    vectors_XD: np.ndarray


Read = Callable[[Sequence[AddedItem]], np.ndarray]


class AddedItems:
    """The generations in one folder.

    Args:
        folder: made with the first addition.
        bundle: version of the bundle that is served.
        read: makes vectors of items.
    """

    def __init__(self, folder: Path, bundle: str, read: Read) -> None:
        self.folder, self.bundle, self._read = folder, bundle, read

    def newest(self) -> int:
        """Number of the newest generation; 0 where nothing was ever added.

        Raises:
            UserError: the folder is not readable.
        """
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _damaged(self.folder, error.strerror or "it is not readable", self.folder) from error
        return max((int(name) for name in names if len(name) == DIGITS and name.isdigit()), default=0)

    def mark(self) -> str:
        """What tells the newest generation from all others; empty where nothing was ever added.

        Raises:
            UserError: the folder is not readable.
        """
        number = self.newest()
        if not number:
            return ""
        try:
            return _mark(number, (self.folder / _name(number) / MANIFEST).read_bytes())
        except OSError:
            return _mark(number, b"")

    def load(self) -> Generation | None:
        """The newest generation, with vectors of the bundle that is served; None where nothing was ever added.

        Raises:
            UserError: it is damaged.
        """
        while number := self.newest():
            try:
                return self._checked(number)
            except FileNotFoundError as error:
                if self.newest() == number:
                    folder = self.folder / _name(number)
                    raise _damaged(folder, "a file is missing", folder) from error
        return None

    def add(self, items: Sequence[AddedItem]) -> Generation:
        """Add items or change them, in a new generation; the last one counts where an id comes twice.

        Raises:
            UserError: there would be too many, the newest generation is damaged, or the folder cannot be written.
        """
        try:
            with self._writing():
                return self._add(items)
        except OSError as error:
            raise UserError(
                f"The items cannot be kept: {error.strerror or type(error).__name__}.",
                str(self.folder),
                "Set PRISMREC_ITEMS to a folder that can be written.",
            ) from error

    def _add(self, items: Sequence[AddedItem]) -> Generation:
        old = self.load()
        known = {} if old is None else dict(zip((i.item_id for i in old.items), old.items, strict=True))
        vectors = {} if old is None else dict(zip(known, old.vectors_XD, strict=True))
        changed = {item.item_id: item for item in items}
        known.update(changed)
        if len(known) > MAX_ADDED:
            raise UserError(
                f"{len(known):,} items would be added to this bundle; at most {MAX_ADDED:,} are.",
                "",
                "Train again, with the new items in the catalogue.",
            )
        vectors.update(zip(changed, self._read(list(changed.values())), strict=True))
        return self._write(self.newest() + 1, tuple(known.values()), np.stack([vectors[name] for name in known]))

    def _checked(self, number: int) -> Generation:
        folder = self.folder / _name(number)
        try:
            content = (folder / MANIFEST).read_bytes()
            manifest = json.loads(content)
            for name in (ITEMS, VECTORS):
                if sha256_file(folder / name) != manifest["files"][name]:
                    raise _damaged(folder / name, "its content is not what was written", folder)
            lines = [json.loads(line) for line in (folder / ITEMS).read_bytes().splitlines()]
            items = tuple(AddedItem(**{**line, "categories": tuple(line["categories"])}) for line in lines)
            ours = manifest["bundle"] == self.bundle
            vectors_XD = load_file(folder / VECTORS)["vectors"] if ours else None
        except FileNotFoundError:
            raise  # somebody removes it just now, perhaps
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise _damaged(folder / MANIFEST, "it is not one of ours", folder) from error
        return Generation(
            number, _mark(number, content), self.bundle, items, self._read(items) if vectors_XD is None else vectors_XD
        )

    def _write(self, number: int, items: tuple[AddedItem, ...], vectors_XD: np.ndarray) -> Generation:
        with atomic_folder(self.folder / _name(number)) as folder:
            lines = (json.dumps(asdict(item), ensure_ascii=False, sort_keys=True) for item in items)
            (folder / ITEMS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            write_tensors(folder / VECTORS, {"vectors": vectors_XD})
            files = {name: sha256_file(folder / name) for name in (ITEMS, VECTORS)}
            manifest = dump_json({"bundle": self.bundle, "files": files})
            (folder / MANIFEST).write_text(manifest, encoding="utf-8")
        for old in range(max(1, number - KEPT - 2), number - KEPT + 1):
            with contextlib.suppress(FileNotFoundError):
                remove_folder(self.folder / _name(old))
        return Generation(number, _mark(number, manifest.encode()), self.bundle, items, vectors_XD)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _name(number: int) -> str:
    return f"{number:0{DIGITS}d}"


def _mark(number: int, manifest: bytes) -> str:
    return f"{number}-{hashlib.sha256(manifest).hexdigest()[:16]}"


def _damaged(path: Path, reason: str, generation: Path) -> UserError:
    return UserError(
        f"The items that were added are refused: {path.name}: {reason}.",
        str(path),
        f"Remove {generation}: the generation before it counts then. Add again what it lacks.",
    )
