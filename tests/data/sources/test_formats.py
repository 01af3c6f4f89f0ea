"""Formats: the fast and the careful way give the same rows, and every row of a file is a row of the table."""

import gzip
import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prismrec.data.sources import cells, delimited
from prismrec.data.sources.cells import CellReader
from prismrec.data.sources.delimited import DelimitedReader, Dialect
from prismrec.data.sources.files import open_reader
from prismrec.data.sources.json_lines import LinesReader
from prismrec.data.sources.opening import find_file, find_files
from prismrec.data.sources.parquet import ParquetReader
from prismrec.errors import UserError
from prismrec.parameters.sources import InteractionFiles

WANTED = ("a", "b")
ODD = st.text(alphabet='ab1 ,;"\n\r\t\x00\x01é😀\u200f\\{}[]:\ufeff', max_size=6)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(reader: CellReader, size: int = 1 << 20) -> list[tuple[object, ...]]:
    parts = list(reader.batches(WANTED, (), size))
    return pl.concat(parts).rows() if parts else []


def reader_of(folder: Path, data: bytes, dialect: Dialect) -> DelimitedReader:
    (folder / "t.csv").write_bytes(data)
    return DelimitedReader(find_file(folder, "t.csv"), dialect)


@quick
@given(data=st.lists(ODD, max_size=8).map("\n".join), quoted=st.booleans(), size=st.integers(3, 40))
@example(data='x,"y"\n\ufeff1,2\n\ufeff"1","2"\n\ufeff', quoted=True, size=7)
@example(data='x,"y"\n"1","2"\n"p""q",\n', quoted=True, size=7)
@example(data="x,y\n,\n\n1,2,3\n", quoted=True, size=3)
def test_delimited_ways_agree(tmp_path: Path, data: str, quoted: bool, size: int) -> None:
    reader = reader_of(tmp_path, data.encode(), Dialect(",", quoted, header=WANTED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "_refuse_other_text", lambda *_: None)  # a few NULs make UTF-16 of so short a text
        whole, pieces = read(reader), read(reader, size)
        patch.setattr(DelimitedReader, "_plain", lambda *_: None)
        careful = read(reader)
    assert whole == careful, "polars and our own reader"
    assert pieces == careful, "whatever the blocks"
    if not quoted:
        given_lines = [line for line in data.removeprefix("\ufeff").split("\n") if line.removesuffix("\r")]
        assert len(whole) == len(given_lines)
    assert all((problem is None) == (text is None) for *_, problem, text in whole)


@quick
@given(rows=st.lists(st.tuples(ODD, ODD), min_size=1, max_size=8), size=st.integers(1, 60))
def test_whatever_is_quoted_comes_back(tmp_path: Path, rows: list[tuple[str, str]], size: int) -> None:
    lines = "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "_refuse_other_text", lambda *_: None)
        made = read(reader_of(tmp_path, lines.encode(), Dialect(header=WANTED)), size)
    assert made == [(first or None, second or None, None, None) for first, second in rows]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ODD, st.lists(st.integers(), max_size=2), st.just({"c": 1})
)


@quick
@given(rows=st.lists(st.dictionaries(st.sampled_from(["a", "b", "c", '"a"']), VALUES, max_size=3), max_size=8))
@example(rows=[{"a": 1e300, "b": "null"}, {"a": None, "b": True}, {"a": "", "b": -0.5}])
def test_json_ways_agree(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    (tmp_path / "t.jsonl").write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    reader = LinesReader(find_file(tmp_path, "t.jsonl"))
    whole = read(reader)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinesReader, "_read_plain", lambda *_: None)
        assert read(reader) == whole
    assert len(whole) == len(rows)


def test_the_fast_ways_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careful(*_: object) -> None:
        raise AssertionError("not plain")

    plain = b"a,b\n" + b"1,2\n" * 50
    well_quoted = b'"a","b"\r\n' + b'"1, x","2 ""y"""\r\n' * 50
    readers = [reader_of(tmp_path, data, Dialect(header=WANTED)) for data in (plain, well_quoted)]
    monkeypatch.setattr(delimited, "split_rows", careful)
    monkeypatch.setattr(LinesReader, "_frame", careful)
    (tmp_path / "t.jsonl").write_bytes(b'{"a": 1e3, "b": "x"}\n{ "b":"y" ,"a" : null}\n')
    assert read(readers[1])[1] == ("1, x", '2 "y"', None, None)
    assert read(LinesReader(find_file(tmp_path, "t.jsonl"))) == [("1e3", "x", None, None), (None, "y", None, None)]


@pytest.mark.parametrize("quote", [b"", b'"'])
def test_a_byte_order_mark_within_a_file_is_a_character(tmp_path: Path, quote: bytes) -> None:
    row = quote + b"1" + quote + b",2\n"
    made = read(reader_of(tmp_path, b"\xef\xbb\xbfa,b\n\xef\xbb\xbf1,2\n" + row + b"\xef\xbb\xbf", Dialect()))
    assert made == [("\ufeff1", "2", None, None), ("1", "2", None, None), (None, None, "ragged_row", "\ufeff")]
    (tmp_path / "t.jsonl").write_bytes(b'{"a": 1, "b": 2}\n\xef\xbb\xbf')
    assert read(LinesReader(find_file(tmp_path, "t.jsonl")), 17)[1] == (None, None, "not_json", "\ufeff")


def test_a_stray_quote_costs_one_line(tmp_path: Path) -> None:
    data = b'1,2\n"3,4\n5,6\n7,"8\n9"x\n"10\n11",12\n'
    made = read(reader_of(tmp_path, data, Dialect(header=WANTED)))
    assert made == [
        ("1", "2", None, None),
        (None, None, "stray_quote", '"3,4'),
        ("5", "6", None, None),
        (None, None, "stray_quote", '7,"8'),
        (None, None, "ragged_row", '9"x'),
        ("10\n11", "12", None, None),
    ]


def test_a_quote_that_is_never_closed_does_not_swallow_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "LONGEST_QUOTED", 100)
    made = read(reader_of(tmp_path, b'"1,2\n' + b"3,4\n" * 500, Dialect(header=WANTED)), 64)
    assert len(made) == 501
    assert [row[2] for row in made if row[2]] == ["stray_quote"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{'a': u'x', 'b': 1e3}", None),
        ("{'a': __import__('os')}", "not_a_literal"),
        ("[" * 200 + "]" * 200, "not_a_literal"),
        ("{'a': " + "-" * 5000 + "1}", "not_a_literal"),
        ("{'a': '" + "x" * 2_000_000 + "'}", "not_a_literal"),
        ("('a',)", "not_an_object"),
    ],
    ids=["good", "call", "deep", "signs", "long", "tuple"],
)
def test_python_lines(tmp_path: Path, line: str, problem: str | None) -> None:
    (tmp_path / "t.json").write_text(line + "\n")
    ((_, _, found, text),) = read(LinesReader(find_file(tmp_path, "t.json"), "python_lines"))
    assert found == problem
    assert text == (line if problem else None)


def test_parquet_keeps_types_and_counts_seconds(tmp_path: Path) -> None:
    stamps = [-1, 1_400_000_000_123]
    table = pa.table(
        {
            "a": pa.array([2**63 - 1, None], pa.int64()),
            "b": pa.array(stamps, pa.timestamp("ms", "Europe/Paris")),
            "c": pa.array(["x", "y"]).dictionary_encode(),
            "d": pa.array([b"x", b"y"]),
            "e": pa.array([19000, 0], pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    reader = ParquetReader(find_file(tmp_path, "t.parquet"))
    frame = next(iter(reader.batches(("a", "b", "c", "d", "e"))))
    assert frame.get_column("a").to_list() == [2**63 - 1, None]
    assert frame.get_column("b").to_list() == [-1, 1_400_000_000]
    assert frame.get_column("c").to_list() == frame.get_column("d").to_list() == ["x", "y"]
    assert frame.get_column("e").to_list() == [19000 * 86400, 0]
    assert set(reader.stored_times) == {"b", "e"}


@pytest.mark.parametrize("encoded", [False, True])
def test_bytes_in_parquet_that_are_no_text(tmp_path: Path, encoded: bool) -> None:
    column = pa.array([b"x", b"\xff"])
    table = pa.table({"a": column.dictionary_encode() if encoded else column, "b": [1, 2]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"Column 'a' of t\.parquet holds bytes \(binary\) that are no text") as caught:
        read(ParquetReader(find_file(tmp_path, "t.parquet")))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "format_"),
    [
        ("t.csv", b"a\tb\n1\t2\n", "delimited"),
        ("t.log", b'{"a": 1, "b": 2}\n', "json_lines"),
        ("t.jsonl.gz", gzip.compress(b'{"a": 1, "b": 2}\n', mtime=0), "json_lines"),
        ("t.zst", pa.compress(b"a|b\n1|2\n", codec="zstd", asbytes=True), "delimited"),
        ("t.txt", b"\xef\xbb\xbfa;b\r\n1;2", "delimited"),
    ],
)
def test_formats_are_told(tmp_path: Path, name: str, data: bytes, format_: str) -> None:
    (tmp_path / name).write_bytes(data)
    reader = open_reader(find_file(tmp_path, name), InteractionFiles(), {"user_id": "a", "item_id": "b"})
    assert reader.described["format"] == format_
    assert read(reader) == [("1", "2", None, None)]


def test_the_separator_between_categories_is_no_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1|2|3,4\n")
    reader = open_reader(find_file(tmp_path, "t.csv"), InteractionFiles(), {"user_id": "a", "item_id": "b"})
    assert read(reader) == [("1|2|3", "4", None, None)]


def test_files_are_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find_files(tmp_path, "*.csv")] == ["a.csv", "b.csv"]


def test_a_file_without_lines_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismrec.data.sources.cells.LONGEST_ROW", 100)
    with pytest.raises(UserError, match=r"t\.csv holds a row of more than"):
        read(reader_of(tmp_path, b"x" * 1000, Dialect(header=WANTED)), 50)
