"""A bundle is read back as it was written, or refused with the file and the reason."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prismrec.artifacts.atomic import sha256_folder
from prismrec.artifacts.bundle import LABELS_OF, BundleParts, CatalogueItem, KeptBundle, read_bundle
from prismrec.errors import UserError


class Folder:
    """A model folder with one file of the given content."""

    def __init__(self, content: str) -> None:
        self.content = content

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(self.content)


def content(dictionary: str = "one") -> BundleParts:
    items = [CatalogueItem(0, "a", "Älterer Film", ("Drama",), True), CatalogueItem(1, "b", "B", (), False)]
    return BundleParts(
        items=items,
        parts={
            "dictionary": Folder(dictionary),
            "posterior": Folder("posterior"),
            "popularity": {"counts": np.array([3, 1])},
        },
        default_model="popularity",
        labels={"0-1": "Drama"},
        created_from={"split_hash": "abc"},
        dictionary_version=dictionary,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content().save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_was_written_is_read(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.items == list(content().items)
    assert bundle.labels == {"0-1": "Drama"}
    assert bundle.manifest.default_model == "popularity"
    assert bundle.manifest.created_from == {"split_hash": "abc"}


@pytest.mark.parametrize(("of", "refused"), [(None, False), ("one", False), ("two", True)])
def test_names_of_another_dictionarys_interests_are_refused(tmp_path: Path, of: str | None, refused: bool) -> None:
    """A release before did not say of which they are."""
    labels = {"0-1": "Drama"} if of is None else {LABELS_OF: of, "0-1": "Drama"}
    replace(content(dictionary="one"), labels=labels).save(tmp_path / "bundle")
    if refused:
        with pytest.raises(UserError, match=r"interest_labels.json: its names are of the dictionary two, .* is one"):
            read_bundle(tmp_path / "bundle")
    else:
        assert read_bundle(tmp_path / "bundle").labels == {"0-1": "Drama"}


def test_a_bundle_knows_whether_its_models_know_times(folder: Path, tmp_path: Path) -> None:
    replace(content(), timed=False).save(tmp_path / "untimed")
    timed, untimed = read_bundle(folder), read_bundle(tmp_path / "untimed")
    assert (timed.manifest.timed, untimed.manifest.timed) == (True, False)
    assert timed.version != untimed.version
    assert "timed" not in (folder / "manifest.json").read_text()  # bundles of earlier versions keep theirs


def test_same_content_gives_same_bytes_and_version(folder: Path, tmp_path: Path) -> None:
    content().save(tmp_path / "again")
    assert sha256_folder(tmp_path / "again") == sha256_folder(folder)
    assert read_bundle(tmp_path / "again").version == read_bundle(folder).version


def test_versions_follow_what_they_name(folder: Path, tmp_path: Path) -> None:
    content(dictionary="two").save(tmp_path / "other")
    one, other = read_bundle(folder), read_bundle(tmp_path / "other")
    assert (one.manifest.versions.dictionary, other.manifest.versions.dictionary) == ("one", "two")
    assert one.manifest.versions.model != other.manifest.versions.model
    assert one.manifest.versions.data == other.manifest.versions.data
    assert one.version != other.version


def test_the_card_is_part_of_the_bundle_but_of_no_models_or_datas_version(folder: Path, tmp_path: Path) -> None:
    replace(content(), card="# Card").save(tmp_path / "carded")
    plain, carded = read_bundle(folder), read_bundle(tmp_path / "carded")
    assert (carded.folder / "README.md").read_text() == "# Card"
    assert carded.manifest.versions == plain.manifest.versions
    assert carded.version != plain.version


def test_a_kept_bundle_is_the_same_byte_by_byte(folder: Path, tmp_path: Path) -> None:
    KeptBundle(folder).save(tmp_path / "kept")
    assert sha256_folder(tmp_path / "kept") == sha256_folder(folder)


def _edit_manifest(folder: Path, edit: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def _flip_a_byte(folder: Path) -> None:
    file = folder / "popularity.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def _cut_short(folder: Path) -> None:
    file = folder / "items.jsonl"
    file.write_bytes(file.read_bytes()[:-5])


def _remove(folder: Path) -> None:
    (folder / "posterior/config.json").unlink()


def _add(folder: Path) -> None:
    (folder / "posterior/model.pkl").write_bytes(b"\x80\x04.")


def _link(folder: Path) -> None:
    target = folder.parent / "elsewhere.json"
    shutil.move(folder / "posterior/config.json", target)
    (folder / "posterior/config.json").symlink_to(target)


def _swap_the_dictionary(folder: Path) -> None:
    content(dictionary="two").save(folder.parent / "other")
    shutil.copy(folder.parent / "other/dictionary/config.json", folder / "dictionary/config.json")


def _swap_the_dictionary_with_its_checksum(folder: Path) -> None:
    _swap_the_dictionary(folder)
    other = json.loads((folder.parent / "other/manifest.json").read_text())
    name = "dictionary/config.json"
    _edit_manifest(folder, lambda manifest: manifest["files"].update({name: other["files"][name]}))


def _leave_the_folder(folder: Path) -> None:
    record = {"sha256": "0" * 64, "size": 1}
    _edit_manifest(folder, lambda manifest: manifest["files"].update({"../../etc/passwd": record}))


def _absolute_name(folder: Path) -> None:
    record = {"sha256": "0" * 64, "size": 1}
    _edit_manifest(folder, lambda manifest: manifest["files"].update({"/etc/passwd": record}))


def _future_format(folder: Path) -> None:
    _edit_manifest(folder, lambda manifest: manifest.update(format=2))


def _unknown_entry(folder: Path) -> None:
    _edit_manifest(folder, lambda manifest: manifest.update(loader="os.system"))


def _broken_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (_flip_a_byte, "popularity.safetensors", "not what was packaged"),
        (_cut_short, "items.jsonl", "bytes instead of"),
        (_remove, "posterior/config.json", "missing"),
        (_add, "posterior/model.pkl", "does not know it"),
        (_link, "posterior/config.json", "a link"),
        (_swap_the_dictionary, "dictionary/config.json", "another bundle's"),
        (_swap_the_dictionary_with_its_checksum, "manifest.json", "two bundles are mixed"),
        (_leave_the_folder, "manifest.json", "outside the bundle: '../../etc/passwd'"),
        (_absolute_name, "manifest.json", "outside the bundle: '/etc/passwd'"),
        (_future_format, "manifest.json", "format 2"),
        (_unknown_entry, "manifest.json", "'loader'"),
        (_broken_json, "manifest.json", "not JSON"),
        (_no_manifest, "bundle", "no manifest.json"),
    ],
)
def test_a_damaged_bundle_is_refused(folder: Path, damage: Callable[[Path], None], file: str, reason: str) -> None:
    damage(folder)
    with pytest.raises(UserError) as refusal:
        read_bundle(folder)
    assert reason in refusal.value.what
    assert refusal.value.where.endswith(file)
    assert refusal.value.mend


def test_item_indices_have_to_be_positions(tmp_path: Path) -> None:
    items = [CatalogueItem(1, "a", "A", (), True)]
    BundleParts(items=items, parts={}, default_model="popularity").save(tmp_path / "bundle")
    with pytest.raises(UserError, match="item indices"):
        read_bundle(tmp_path / "bundle")
