"""Folders appear whole or not at all; leftovers of dead writers go, those of living ones stay."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prismrec.artifacts.atomic import atomic_folder, sha256_file, sha256_folder

WRITER = """
import sys, time
from pathlib import Path
from prismrec.artifacts.atomic import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(target)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(".tmp-*"))


def test_the_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "entry" / "version"
    with atomic_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("content")
        assert not target.exists()
    assert (target / "deep" / "file").read_text() == "content"
    assert leftovers(target.parent) == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "version") as folder:
            (folder / "file").write_text("half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "version"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "version"]


def test_a_killed_writers_folder_is_removed_by_the_next_save(tmp_path: Path) -> None:
    writer = start_writer(tmp_path / "first")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(leftovers(tmp_path)) == 1
    with atomic_folder(tmp_path / "second"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_living_writers_folder_is_left_alone(tmp_path: Path) -> None:
    writer = start_writer(tmp_path / "first")
    try:
        with atomic_folder(tmp_path / "second"):
            pass
        assert [(path / "half").read_text() for path in leftovers(tmp_path)] == ["half"]
    finally:
        writer.kill()
        writer.wait()


def test_everything_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        events.append(Path(f"/proc/self/fd/{handle}").readlink().name.split("-")[0])
        real_fsync(handle)

    def rename(source: Path, target: Path) -> None:
        events.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    with atomic_folder(tmp_path / "entry" / "version") as folder:
        (folder / "file").write_text("content")
    assert events == ["file", ".tmp", "rename", "entry"]


def test_checksums_follow_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("same")
    assert sha256_folder(tmp_path / "a") == sha256_folder(tmp_path / "b")
    (tmp_path / "b" / "deep" / "file").write_text("other")
    (tmp_path / "c" / "deep" / "file").rename(tmp_path / "c" / "deep" / "renamed")
    hashes = {sha256_folder(tmp_path / name) for name in ("a", "b", "c")}
    assert len(hashes) == 3
    # The digest of "abc" is in the standard itself (FIPS 180-2).
    (tmp_path / "abc").write_text("abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
