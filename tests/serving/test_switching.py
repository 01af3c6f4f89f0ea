"""Switching bundles while answering: nobody waits, nobody is lost, and a refused bundle changes nothing."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from prismrec.errors import UserError
from prismrec.serving.engine import Engine
from prismrec.serving.switching import POINTER, Switch, point_to, pointed_to
from serving.bundles import parts


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "bundle"
    parts(seed=1).save(folder)
    return folder


class Store:
    """A place that says which bundle to serve, and counts how often one is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: list[Path] = []

    def wanted(self) -> Path:
        if not self.folder.exists():
            raise UserError(f"There is no {self.folder.name}.")
        return self.folder

    def load(self, folder: Path) -> Engine:
        self.loaded.append(folder)
        return Engine.load(folder)


def test_the_pointer_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert pointed_to(tmp_path) is None
    point_to(tmp_path, "prismrec:abc")
    assert pointed_to(tmp_path) == "prismrec:abc"
    assert [path.name for path in tmp_path.iterdir()] == [POINTER]
    point_to(tmp_path, None)
    point_to(tmp_path, None)
    assert pointed_to(tmp_path) is None


def test_requests_go_on_through_a_switch_and_back(bundle_folder: Path, other_folder: Path) -> None:
    store = Store(bundle_folder)
    switch = Switch(store.wanted, store.load)
    first = switch.engine
    expected = {first.versions.model: first.recommend(["i1"], k=5)}
    second = Engine.load(other_folder)
    expected[second.versions.model] = second.recommend(["i1"], k=5)
    seen, wrong, stop = set(), [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answer = switch.engine.recommend(["i1"], k=5)
            except Exception as error:  # a thread's end would not be seen
                wrong.append(repr(error))
                return
            if answer != expected[answer.versions.model]:
                wrong.append(answer.versions.model)
            seen.add(answer.versions.model)

    thread = threading.Thread(target=ask)
    thread.start()
    for folder in (other_folder, bundle_folder, other_folder):
        store.folder = folder
        switch.look()
        assert switch.engine.bundle == (first if folder == bundle_folder else second).bundle
        seen.clear()
        deadline = time.monotonic() + 30
        while switch.engine.versions.model not in seen and not wrong:
            assert time.monotonic() < deadline, "nobody is answered from it"
            time.sleep(0.01)
    stop.set()
    thread.join()
    assert wrong == []
    assert len(store.loaded) == 4


def test_nothing_is_loaded_while_nothing_changes(bundle_folder: Path) -> None:
    store = Store(bundle_folder)
    switch = Switch(store.wanted, store.load)
    for _ in range(3):
        switch.look()
    assert store.loaded == [bundle_folder]


def test_a_refused_bundle_is_said_once_and_the_old_one_goes_on(
    bundle_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tampered = tmp_path / "bundle"
    shutil.copytree(bundle_folder, tampered)
    (tampered / "items.jsonl").write_text("")
    store = Store(bundle_folder)
    switch = Switch(store.wanted, store.load)
    engine = switch.engine
    for folder in (tampered, tampered, tmp_path / "missing", tmp_path / "missing"):
        store.folder = folder
        switch.look()
        assert switch.engine is engine
    assert store.loaded == [bundle_folder, tampered]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "items.jsonl" in caplog.records[0].getMessage()
    store.folder = bundle_folder
    switch.look()
    assert switch.engine is engine


def test_a_bundle_that_breaks_the_loading_is_tried_once_and_the_old_one_goes_on(
    bundle_folder: Path, other_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(bundle_folder)
    switch = Switch(store.wanted, store.load)
    tried = []

    def broken(folder: Path) -> Engine:
        tried.append(folder)
        raise KeyError("weights")

    switch._load = broken
    store.folder = other_folder
    for _ in range(3):
        switch.look()
    assert tried == [other_folder]
    (record,) = caplog.records
    assert "KeyError('weights')" in record.getMessage()
    assert record.exc_info is not None
    assert switch.engine.bundle in record.getMessage()


def test_the_first_bundle_has_to_be_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match="not a bundle"):
        Switch(store.wanted, store.load)
