"""Items added while serving: generations on disk, one writer at a time, nothing lost by a kill."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prismrec.artifacts import atomic
from prismrec.errors import UserError
from prismrec.serving import added_items
from prismrec.serving.added_items import KEPT, AddedItem, AddedItems


def lengths(items: Sequence[AddedItem]) -> np.ndarray:
    """Vectors that tell the titles' lengths."""
    return np.array([[len(item.title), 1.0] for item in items], dtype=np.float32).reshape(-1, 2)


def store(folder: Path, bundle: str = "b1") -> AddedItems:
    return AddedItems(folder, bundle, lengths)


def add_many(folder: Path, worker: int) -> None:
    for number in range(10):
        store(folder).add([AddedItem(f"{worker}-{number}", "x" * number)])


def test_nothing_was_ever_added(tmp_path: Path) -> None:
    empty = store(tmp_path / "none")
    assert (empty.newest(), empty.load()) == (0, None)
    assert not (tmp_path / "none").exists()


def test_what_is_added_is_read_by_everybody(tmp_path: Path) -> None:
    store(tmp_path).add([AddedItem("a", "one", "text", ("Drama",)), AddedItem("b", "three")])
    store(tmp_path).add([AddedItem("c", "four"), AddedItem("a", "changed")])
    found = store(tmp_path).load()
    assert found is not None
    assert [(item.item_id, item.title) for item in found.items] == [("a", "changed"), ("b", "three"), ("c", "four")]
    assert found.vectors_XD[:, 0].tolist() == [7, 5, 4]
    assert found.number == store(tmp_path).newest() == 2


def test_only_the_last_generations_stay(tmp_path: Path) -> None:
    for number in range(KEPT + 4):
        store(tmp_path).add([AddedItem(str(number), "x")])
    assert sorted(path.name for path in tmp_path.glob("0*")) == [f"{n:08d}" for n in range(5, KEPT + 5)]
    found = store(tmp_path).load()
    assert found is not None
    assert len(found.items) == KEPT + 4


def test_two_processes_add_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add_many, args=(tmp_path, worker)) for worker in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = store(tmp_path).load()
    assert found is not None
    assert {item.item_id for item in found.items} == {f"{w}-{n}" for w in range(2) for n in range(10)}
    assert found.number == 20


def test_under_another_bundle_texts_stay_and_vectors_are_made_anew(tmp_path: Path) -> None:
    store(tmp_path).add([AddedItem("a", "one")])
    other = AddedItems(tmp_path, "b2", lambda items: lengths(items) * 10)
    found = other.load()
    assert found is not None
    assert found.vectors_XD[0, 0] == 30
    other.add([AddedItem("b", "four")])
    again = store(tmp_path).load()
    assert again is not None
    assert again.vectors_XD[:, 0].tolist() == [3, 4]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"bundle": "b1", "files": 3}', b"\xff"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    store(tmp_path).add([AddedItem("a", "one")])
    (tmp_path / "00000001" / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json: it is not one of ours"):
        store(tmp_path).load()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for asked in (store(tmp_path / "file").newest, store(tmp_path / "file").mark):
        with pytest.raises(UserError, match="Not a directory"):
            asked()
    with pytest.raises(UserError, match="The items cannot be kept"):
        store(tmp_path / "file" / "items").add([AddedItem("a", "one")])


def test_a_number_that_is_used_again_has_another_mark(tmp_path: Path) -> None:
    assert store(tmp_path).mark() == ""
    first = store(tmp_path).add([AddedItem("a", "one")])
    assert store(tmp_path).mark() == first.mark
    shutil.rmtree(tmp_path / "00000001")
    second = store(tmp_path).add([AddedItem("b", "two")])
    assert (first.number, second.number) == (1, 1)
    assert store(tmp_path).mark() == second.mark != first.mark


@pytest.mark.parametrize("name", ["items.jsonl", "vectors.safetensors"])
def test_a_damaged_generation_is_refused(tmp_path: Path, name: str) -> None:
    store(tmp_path).add([AddedItem("a", "one")])
    path = tmp_path / "00000001" / name
    path.write_bytes(path.read_bytes().replace(b"one", b"two") + b" ")
    with pytest.raises(UserError, match=f"{name}: its content is not what was written"):
        store(tmp_path).load()
    path.unlink()
    with pytest.raises(UserError, match="a file is missing"):
        store(tmp_path).load()


def test_a_writer_that_is_killed_leaves_the_old_generation(tmp_path: Path) -> None:
    store(tmp_path).add([AddedItem("a", "one")])

    def killed() -> None:
        atomic._flush_tree = lambda folder: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        store(tmp_path).add([AddedItem("b", "two")])

    writer = multiprocessing.get_context("fork").Process(target=killed)
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    found = store(tmp_path).load()
    assert found is not None
    assert [item.item_id for item in found.items] == ["a"]
    store(tmp_path).add([AddedItem("c", "three")])  # the lock went with its holder
    assert store(tmp_path).newest() == 2


def test_there_is_an_end_to_adding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added_items, "MAX_ADDED", 2)
    store(tmp_path).add([AddedItem("a", "one"), AddedItem("b", "two")])
    with pytest.raises(UserError, match="3 items would be added"):
        store(tmp_path).add([AddedItem("c", "three")])
    store(tmp_path).add([AddedItem("a", "changed")])
