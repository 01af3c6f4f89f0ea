"""The bundle: one folder that holds everything a served model needs, checked file by file when it is read.

    manifest.json           format, default model, versions, SHA-256 and size of every other file
    items.jsonl             the catalogue: one item a line, in the order of the item indices
    interest_labels.json    names of interests by their id, where the models give some
    README.md               the model card: data, licence, figures, limits
    <part>/                 a model folder (config.json, model.safetensors)
    index/index.faiss       candidates of a large catalogue; none in a small one
    recommender_index/index.faiss   the same as the recommender ranks the items
    <part>.safetensors      plain tensors

Our choice: nothing is unpickled, and nothing is used before it is verified: what is missing, cut short,
changed, added, linked to elsewhere or taken from another bundle is refused with its name and the reason.
The same parts give the same bytes, so that a bundle's version is a hash of its content.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from prismrec.artifacts.atomic import files_of, sha256_file
from prismrec.artifacts.model_folder import dump_json, write_tensors
from prismrec.errors import UserError

if TYPE_CHECKING:
    import torch

FORMAT = 1
MANIFEST_NAME = "manifest.json"
ITEMS_NAME = "items.jsonl"
LABELS_NAME = "interest_labels.json"
LABELS_OF = "dictionary"  # its entry that says of which dictionary the interests are; a release before wrote none
CARD_NAME = "README.md"
POPULARITY = "popularity"
DATA_NAMES = frozenset({ITEMS_NAME, f"{POPULARITY}.safetensors"})
VERSION_LENGTH = 16
MEND = "Take a whole bundle, or make it again: kedro run --pipelines packaging"


class Savable(Protocol):
    """A model that writes itself as a model folder."""

    def save(self, folder: Path) -> None:
        """Write everything into `folder`."""


# What a part may be: a model, tensors by name, or a folder to copy.
Part = Savable | Mapping[str, "np.ndarray | torch.Tensor"] | Path


@dataclass(frozen=True)
class CatalogueItem:
    """One line of `items.jsonl`; an item that is not active is known, but not recommended."""

    item_index: int
    item_id: str
    title: str
    categories: tuple[str, ...]
    active: bool


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Record):
    """Checksum and size in bytes of one file."""

    sha256: str
    size: int


class Versions(_Record):
    """Which version of what: content hashes of all model files and of the data, and the dictionary's id.

    The dictionary's is the id it has everywhere, None without one: interests' ids such as "3-11" are cells
    of this version.
    """

    model: str
    dictionary: str | None
    data: str


class BundleManifest(_Record):
    """What a bundle is: `created_from` names what its parts were made from or judged by.

    `events` are the kinds of events that count in a history, all of them if empty; `timed` says whether the models
    were trained on times, so that those of a request mean something to them.
    """

    format: int
    default_model: str
    versions: Versions
    created_from: dict[str, str]
    files: dict[str, FileRecord]
    events: list[str] = []
    timed: bool = True


@dataclass(frozen=True)
class BundleParts:
    """Everything that goes into a bundle, still in memory.

    Attributes:
        items: the catalogue, in the order of the item indices.
        parts: models, tensors and folders by name.
        default_model: the ranker that answers when a request names none.
        labels: names of interests by their id; under `LABELS_OF` the dictionary's.
        created_from: content hashes or names of what the parts were made from.
        dictionary_version: id of the interest dictionary, if there is one.
        card: the model card, Markdown; none if empty.
        events: kinds of events that count in a history, all of them if empty.
        timed: whether the models were trained on times.
    """

    items: Sequence[CatalogueItem]
    parts: Mapping[str, Part]
    default_model: str
    labels: Mapping[str, str] = field(default_factory=dict)
    created_from: Mapping[str, str] = field(default_factory=dict)
    dictionary_version: str | None = None
    card: str = ""
    events: Sequence[str] = ()
    timed: bool = True

    def save(self, folder: Path) -> None:
        """Write the bundle into `folder`, see `write_bundle`."""
        write_bundle(folder, self)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: where it lies, its manifest and its tables. Models are read from the folder."""

    folder: Path
    manifest: BundleManifest
    items: list[CatalogueItem]
    labels: dict[str, str]

    @property
    def version(self) -> str:
        """Content hash of the whole bundle."""
        return hashlib.sha256(_manifest_text(self.manifest).encode()).hexdigest()[:VERSION_LENGTH]


@dataclass(frozen=True)
class KeptBundle:
    """A bundle that is to be written again as it is."""

    folder: Path

    def save(self, folder: Path) -> None:
        """Copy the bundle into `folder`, which may exist."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


def write_bundle(folder: Path, content: BundleParts) -> BundleManifest:
    """Write a bundle in place, with the same bytes for the same content.

    Args:
        folder: made if it does not exist; it has to be empty.
        content: what to write.

    Returns:
        The manifest, as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    assert not any(folder.iterdir()), f"{folder} is not empty"
    lines = (json.dumps(asdict(item), ensure_ascii=False, sort_keys=True) for item in content.items)
    (folder / ITEMS_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if content.labels:
        (folder / LABELS_NAME).write_text(dump_json(dict(content.labels)), encoding="utf-8")
    if content.card:
        (folder / CARD_NAME).write_text(content.card, encoding="utf-8")
    for name, part in content.parts.items():
        _write_part(folder, name, part)
    files = {
        file.relative_to(folder).as_posix(): FileRecord(sha256=sha256_file(file), size=file.stat().st_size)
        for file in files_of(folder)
    }
    manifest = BundleManifest(
        format=FORMAT,
        default_model=content.default_model,
        versions=_versions(files, content.dictionary_version),
        created_from=dict(content.created_from),
        files=files,
        events=list(content.events),
        timed=content.timed,
    )
    (folder / MANIFEST_NAME).write_text(_manifest_text(manifest), encoding="utf-8")
    return manifest


def read_bundle(folder: Path) -> Bundle:
    """Verify every file of a bundle and read its tables.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    manifest = read_manifest(folder)
    _check_names(folder, manifest)
    for name, record in sorted(manifest.files.items()):
        _check_file(folder / name, record)
    if manifest.versions != _versions(manifest.files, manifest.versions.dictionary):
        raise _refusal(folder / MANIFEST_NAME, "its versions are not those of its files: two bundles are mixed")
    return Bundle(folder, manifest, _read_items(folder), _read_labels(folder, manifest))


def _write_part(folder: Path, name: str, part: Part) -> None:
    if isinstance(part, Path):
        shutil.copytree(part, folder / name)
    elif isinstance(part, Mapping):
        write_tensors(folder / f"{name}.safetensors", part)
    else:
        part.save(folder / name)


def _manifest_text(manifest: BundleManifest) -> str:
    # Without defaults, so that a bundle keeps its version when the format gains a field.
    return dump_json(manifest.model_dump(mode="json", exclude_defaults=True))


def _versions(files: Mapping[str, FileRecord], dictionary: str | None) -> Versions:
    data = DATA_NAMES & set(files)
    return Versions(
        model=_content_hash(files, set(files) - data - {CARD_NAME}),
        dictionary=dictionary,
        data=_content_hash(files, data),
    )


def _content_hash(files: Mapping[str, FileRecord], names: Iterable[str]) -> str:
    text = "".join(f"{files[name].sha256}  {name}\n" for name in sorted(names))
    return hashlib.sha256(text.encode()).hexdigest()[:VERSION_LENGTH]


def read_manifest(folder: Path) -> BundleManifest:
    """The manifest of a bundle, whose files it does not verify.

    Raises:
        UserError: there is none, or it is not valid.
    """
    path = folder / MANIFEST_NAME
    if path.is_symlink() or not path.is_file():
        raise UserError("This is not a bundle: it has no manifest.json.", str(folder), MEND)
    try:
        content = json.loads(path.read_bytes())
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise _refusal(path, f"it is of format {found!r}, this version of prismrec reads format {FORMAT}")
        return BundleManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise _refusal(path, f"its entry {key!r} is not valid: {first['msg']}") from error
    except ValueError as error:
        raise _refusal(path, f"it is not JSON ({error})") from error


def _check_names(folder: Path, manifest: BundleManifest) -> None:
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
            raise _refusal(folder / MANIFEST_NAME, f"it names a file outside the bundle: {name!r}")
    listed = {*manifest.files, MANIFEST_NAME}
    present = _present_names(folder)
    if missing := sorted(listed - present):
        raise _refusal(folder / missing[0], "it is missing")
    if added := sorted(present - listed):
        raise _refusal(folder / added[0], "the manifest does not know it")


def _present_names(folder: Path) -> set[str]:
    """Names of all files, relative to the folder; links are refused, for they lead out of it."""
    names: set[str] = set()
    for directory, subfolders, files in os.walk(folder):
        for name in (*subfolders, *files):
            path = Path(directory, name)
            if path.is_symlink():
                raise _refusal(path, "it is a link; a bundle holds plain files only")
        names.update(Path(directory, name).relative_to(folder).as_posix() for name in files)
    return names


def _check_file(path: Path, record: FileRecord) -> None:
    size = path.stat().st_size
    if size != record.size:
        raise _refusal(path, f"it has {size:,} bytes instead of {record.size:,}")
    if sha256_file(path) != record.sha256:
        raise _refusal(path, "its content is not what was packaged: it was changed, or is another bundle's")


def _read_items(folder: Path) -> list[CatalogueItem]:
    path = folder / ITEMS_NAME
    adapter = TypeAdapter(CatalogueItem)
    try:
        with path.open("rb") as lines:
            items = [adapter.validate_json(line) for line in lines]
    except (OSError, ValidationError) as error:
        raise _refusal(path, "it is not a list of items") from error
    if [item.item_index for item in items] != list(range(len(items))):
        raise _refusal(path, "its item indices are not 0, 1, 2, …")
    return items


def _read_labels(folder: Path, manifest: BundleManifest) -> dict[str, str]:
    if LABELS_NAME not in manifest.files:
        return {}
    try:
        labels = TypeAdapter(dict[str, str]).validate_json((folder / LABELS_NAME).read_bytes())
    except ValidationError as error:
        raise _refusal(folder / LABELS_NAME, "it is not a mapping of interest ids to names") from error
    found, wanted = labels.pop(LABELS_OF, None), manifest.versions.dictionary
    if found not in (None, wanted):
        raise _refusal(folder / LABELS_NAME, f"its names are of the dictionary {found}, the manifest's is {wanted}")
    return labels


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(f"This bundle is refused: {path.name}: {reason}.", str(path), MEND)
