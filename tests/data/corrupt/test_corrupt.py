"""Every corrupt input gets what the table says, by name, and nothing of it is lost."""

import gzip
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro.io import DatasetError

from data.corrupt.inputs import INPUTS, Refused, Taken, csv
from data.corrupt.page import page
from data.corrupt.run import run, write
from prismrec.artifacts.atomic import atomic_folder
from prismrec.data.sources import read_source
from prismrec.errors import UserError
from prismrec.kedro_datasets import LazyParquetDataset


def test_there_are_sixty() -> None:
    assert len(INPUTS) >= 60


REFUSED = {name: case for name, case in INPUTS.items() if isinstance(case.gets, Refused)}
TAKEN = {name: case for name, case in INPUTS.items() if isinstance(case.gets, Taken)}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    case = INPUTS[name]
    assert isinstance(case.gets, Refused)
    with pytest.raises(UserError) as caught:
        run(write(case, tmp_path / "set"), tmp_path / "work")
    message = str(caught.value)
    for word in (case.gets.says, *case.gets.names):
        assert word in message
    assert caught.value.mend
    assert caught.value.where
    assert len(message) < 2000
    assert not re.search(r"\bu[1-6]\b", message), "no message names a user"


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str, tmp_path: Path) -> None:
    case = INPUTS[name]
    assert isinstance(case.gets, Taken)
    made = run(write(case, tmp_path / "set"), tmp_path / "work")
    assert made.rules == dict(case.gets.quarantined)
    assert (made.interactions.height, made.items.height) == (case.gets.events, case.gets.items)
    assert made.rows_in == made.interactions.height + made.items.height + made.quarantine.height
    assert set(case.gets.warned) <= set(made.warnings)
    assert made.quarantine.get_column("source_file").null_count() == 0
    if case.row:
        assert any(case.row in row for row in made.quarantine.get_column("row"))


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    case = INPUTS["windows line ends"]
    parameters = write(case, tmp_path / "set")
    table = read_source(parameters).interactions
    file = tmp_path / "set" / "interactions.csv"
    file.write_bytes(file.read_bytes() + b"u1,a,1\n")
    with pytest.raises(UserError, match=r"interactions\.csv was changed while it was read"):
        table.collect()
    file.unlink()
    with pytest.raises(UserError, match=r"interactions\.csv was removed"):
        table.collect()


def test_a_file_cut_off_far_down_leaves_nothing_half_written(tmp_path: Path) -> None:
    chance = random.Random(1)
    rows = "".join(f"u{chance.random()},a,1400000000\n" for _ in range(40_000))
    good = gzip.compress(("user_id,item_id,timestamp\n" + rows).encode(), mtime=0)
    case = INPUTS["truncated gzip"]
    parameters = write(case, tmp_path / "set")
    (tmp_path / "set" / "e.csv.gz").write_bytes(good[:-1000])
    table = read_source(parameters).interactions
    entry = tmp_path / "raw.parquet"
    with pytest.raises(DatasetError, match=r"e\.csv\.gz is cut off") as caught:
        LazyParquetDataset(filepath=str(entry)).save(table)
    assert isinstance(caught.value.__cause__, UserError), "what the command line prints"
    assert not [path for path in entry.rglob("*") if path.is_file() and path.suffix == ".parquet"]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = write(INPUTS["windows line ends"], tmp_path / "set")
    file = tmp_path / "set" / "interactions.csv"
    file.chmod(0)
    opened = Path.open

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path == file:  # root may read anything, so that the mode alone proves nothing
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"interactions\.csv cannot be read: Permission denied") as caught:
        run(parameters, tmp_path / "work")
    assert "chmod" in caught.value.mend


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    table = read_source(write(INPUTS["windows line ends"], tmp_path / "set")).interactions
    target = tmp_path / "version"

    def fill() -> None:
        with atomic_folder(target) as folder:
            (folder / "raw.parquet").symlink_to("/dev/full")
            table.sink_parquet(folder / "raw.parquet")

    with pytest.raises(UserError, match="The disk is full: version could not be written") as caught:
        fill()
    assert caught.value.where == str(tmp_path)
    assert not target.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(small_disk: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    rows = [f"u{chance.random()},a,1400000000" for _ in range(20_000)]
    parameters = write(INPUTS["windows line ends"], tmp_path / "set")
    (tmp_path / "set" / "interactions.csv").write_bytes(csv(rows=rows))
    table = read_source(parameters).interactions
    with pytest.raises(DatasetError, match="The disk is full"):
        LazyParquetDataset(filepath=str(small_disk / "raw.parquet")).save(table)
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.suffix == ".parquet"]


def test_the_page_is_up_to_date() -> None:
    written = (Path(__file__).parents[3] / "docs" / "reference" / "bad-input.md").read_text(encoding="utf-8")
    assert written == page(), "run `make docs`"
