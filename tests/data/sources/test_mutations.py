"""Random damage to small good files: a `UserError` or a table in which every row is accounted for, nothing else.

And whatever comes of a damaged text, the fast way and the careful one give the same cells, or the same error.
"""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from data.tables import validation_parameters
from prismrec.data import schema
from prismrec.data.sources import read_source
from prismrec.data.sources.delimited import DelimitedReader
from prismrec.data.sources.json_lines import LinesReader
from prismrec.errors import UserError
from prismrec.parameters.sources import FilesParameters

ROWS = [(f"u{i % 7}", f"i{i % 5}", 1_400_000_000 + i * 1000, ("view", "buy")[i % 2], i / 2) for i in range(40)]
NAMES = ("user_id", "item_id", "timestamp", "event", "weight")
MARK = b"\xef\xbb\xbf"
SIGNS = [bytes([sign]) for sign in b'\n\r",;\t|\x00\x01\xff\x80{}[]:\\ 019e-u\x1a'] + [MARK] * 8


def text(delimiter: str) -> bytes:
    rows = [NAMES, *ROWS]
    quoted = ['"' + str(cell) + '"' if i % 3 == 0 else str(cell) for row in rows for i, cell in enumerate(row)]
    width = len(NAMES)
    return "\n".join(delimiter.join(quoted[i : i + width]) for i in range(0, len(quoted), width)).encode() + b"\n"


def json_lines() -> bytes:
    return "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS).encode()


def parquet(folder: Path) -> bytes:
    columns = list(zip(*ROWS, strict=True))
    pq.write_table(pa.table(dict(zip(NAMES, columns, strict=True))), folder / "good.parquet", row_group_size=16)
    return (folder / "good.parquet").read_bytes()


KINDS: dict[str, Callable[[Path], bytes]] = {
    "events.csv": lambda _: text(","),
    "events.tsv": lambda _: text("\t").replace(b'"', b""),
    "events.jsonl": lambda _: json_lines(),
    "events.parquet": parquet,
    "events.csv.gz": lambda _: gzip.compress(text(","), mtime=0),
}


def mutate(chance: random.Random, good: bytes) -> bytes:
    """One to four flips, cuts, insertions, doublings or truncations."""
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        # Behind the header the fast way's first block begins.
        at = data.find(b"\n") + 1 if chance.random() < 0.1 else chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.randint(1, 30))
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at : at + 1] = chance.choice(SIGNS)
            case 2:
                del data[at:to]
            case 3:
                data[at:at] = b"".join(chance.choice(SIGNS) for _ in range(chance.randint(1, 6)))
            case 4:
                data[at:at] = data[at:to]
            case _:
                del data[max(at, len(data) // 2) :]
    return bytes(data)


def read(folder: Path, name: str) -> pl.DataFrame:
    columns = {column: column for column in NAMES}
    files = FilesParameters.model_validate(
        {"interactions": {"path": name, "columns": columns}, "items": {"path": None}}
    )
    tables = read_source(validation_parameters(source="files", data_root=str(folder), files=files))
    frame = tables.interactions.collect(engine="streaming")
    json.dumps(tables.facts)
    known = frame.get_column("item_id").drop_nulls().unique()
    assert tables.items.height == len(known)
    return frame


def outcome(folder: Path, name: str) -> pl.DataFrame | UserError:
    try:
        return read(folder, name)
    except UserError as error:
        return error


def same_carefully(folder: Path, name: str, found: pl.DataFrame | UserError) -> None:
    """Read the file again, every row by itself, and compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DelimitedReader, "_plain", lambda *_: None)
        patch.setattr(LinesReader, "_read_plain", lambda *_: None)
        careful = outcome(folder, name)
    if isinstance(found, UserError):
        assert str(careful) == str(found)
    else:
        assert isinstance(careful, pl.DataFrame), careful
        assert_frame_equal(careful, found)


def check(folder: Path, name: str, seed: int) -> str:
    """Damage a file and read it; returns what came of it."""
    good = KINDS[name](folder)
    data = mutate(random.Random(f"{name} {seed}"), good)
    (folder / name).write_bytes(data)
    frame = outcome(folder, name)
    if name != "events.parquet":
        same_carefully(folder, name, frame)
    if isinstance(frame, UserError):
        return "refused" if name in str(frame) else f"refused without the file's name: {frame}"
    assert frame.schema == schema.RAW_INTERACTIONS
    unread = frame.filter(pl.col("problem").is_not_null())
    assert unread.get_column("as_given").null_count() == 0
    if name.endswith(("csv", "tsv", "jsonl")):
        given = [line for line in data.removeprefix(MARK).split(b"\n") if line not in (b"", b"\r")]
        rows = len(given) - (not name.endswith("jsonl"))
        # Only a quoted line break makes a row of several lines.
        inside = sum(
            (text or "").count("\n")
            for text in [*unread["as_given"], *frame["user_id"], *frame["event"], *frame["item_id"]]
        )
        assert frame.height == rows or (name == "events.csv" and frame.height < rows and inside)
    assert frame["source_row"].to_list() == list(range(frame.height))
    return "read"


def run(folder: Path, times: int, first: int = 0) -> dict[str, int]:
    made: dict[str, int] = {"read": 0, "refused": 0}
    for name in KINDS:
        for seed in range(first, first + times // len(KINDS)):
            made[check(folder, name, seed)] += 1
    return made


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    made = run(tmp_path, 250)
    assert min(made.values()) > 50, "both happen"


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    made = run(tmp_path, 10_000, first=1000)
    assert sum(made.values()) == 10_000
