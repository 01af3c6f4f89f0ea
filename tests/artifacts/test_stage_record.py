"""What a stage's record says about the machine and the code."""

import mmap
import subprocess
from pathlib import Path

import pytest

import prismrec
from prismrec.artifacts import stage_record


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", str(project), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_known_inside_of_git_only(tmp_path: Path) -> None:
    outside = {"version": prismrec.__version__, "commit": None, "changed": False}
    assert stage_record.code_version(tmp_path) == outside
    git(tmp_path, "init")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    clean = stage_record.code_version(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["changed"] is False
    (tmp_path / "file").write_text("2")
    assert stage_record.code_version(tmp_path) == {**clean, "changed": True}


def test_libraries_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_record, "LIBRARIES", ("numpy", "no-such-library"))
    versions = stage_record.library_versions()
    assert versions.keys() == {"python", "numpy"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
def test_the_peak_of_memory_is_that_since_the_reset() -> None:
    # Mapped, not allocated: whatever ran before may have left room in the heap.
    with mmap.mmap(-1, 200_000_000) as block:
        block.write(bytes(200_000_000))
        high = stage_record.peak_memory_mb()
    assert stage_record.reset_peak_memory()
    low = stage_record.peak_memory_mb()
    assert high - low > 150
    with mmap.mmap(-1, 200_000_000) as block:
        block.write(bytes(200_000_000))
    assert stage_record.peak_memory_mb() - low > 150


def test_the_record_is_written_at_once_and_sorted(tmp_path: Path) -> None:
    stage_record.write_record(tmp_path / "codebook" / "v", {"b": 1, "a": 2}, {"seconds": 0.5})
    assert (tmp_path / "codebook" / "v" / "manifest.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    assert {p.name for p in (tmp_path / "codebook" / "v").iterdir()} == {"manifest.json", "run.json"}
