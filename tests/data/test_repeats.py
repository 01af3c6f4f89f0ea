"""Rows that repeat earlier ones are found exactly, in parts or whole, whatever their hashes."""

import errno

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data import repeats
from prismrec.data.repeats import ROW, among, frequent_hashes, repeated_rows
from prismrec.errors import UserError


def numbered(rows: list[tuple[str | None, int | None]]) -> pl.LazyFrame:
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.Int64}, orient="row")
    return frame.with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64)).lazy()


cells = st.tuples(st.sampled_from([None, "", "x", "y"]), st.sampled_from([None, 0, 1]))


@given(st.lists(cells, max_size=40), st.sampled_from([1, 3, 100]))
def test_repeats_are_those_of_a_plain_loop(rows: list[tuple[str | None, int | None]], part: int) -> None:
    expected = [number for number, row in enumerate(rows) if row in rows[:number]]
    assert repeated_rows(numbered(rows), ["a", "b"], part).tolist() == expected


def test_rows_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Expr, "hash", lambda *_: pl.lit(7, pl.UInt64))
    monkeypatch.setattr(repeats, "_sorted_hashes", lambda *_: np.array([7, 7, 7], np.uint64))
    assert repeated_rows(numbered([("x", 1), ("y", 1), ("x", 1)]), ["a", "b"]).tolist() == [2]


def test_rows_are_read_twice_however_many_parts_there_are() -> None:
    readings = []

    def read(frame: pl.DataFrame) -> pl.DataFrame:
        readings.append(1)
        return frame

    rows: list[tuple[str | None, int | None]] = [("x", number // 2) for number in range(100)]
    table = numbered(rows).map_batches(read)
    assert repeated_rows(table, ["a", "b"], 3).tolist() == list(range(1, 100, 2))
    assert len(readings) == 2


def test_equal_rows_are_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    find = repeats._first_ones

    def watched(*given: object) -> object:
        held.append(len(find(*given)))  # type: ignore[arg-type]
        return find(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(repeats, "_first_ones", watched)
    assert len(repeated_rows(numbered([("x", 1)] * 1000 + [("y", 1)] * 2), ["a", "b"])) == 1000
    assert held == [2]


def test_zeros_of_both_signs_are_one_number() -> None:
    table = pl.LazyFrame({ROW: [0, 1, 2, 3], "w": [0.0, None, -0.0, None]})
    assert repeated_rows(table, ["w"]).tolist() == [2, 3]


@pytest.mark.parametrize("least", [2, 3])
def test_frequent_hashes_count(least: int) -> None:
    table = pl.LazyFrame({"h": [5, 9, 5, 1, 9, 9, 2**64 - 1]}, schema={"h": pl.UInt64})
    assert frequent_hashes(table, pl.col("h"), least).tolist() == ([5, 9] if least == 2 else [9])
    assert frequent_hashes(table.head(1), pl.col("h"), least).tolist() == []
    assert frequent_hashes(table.head(0), pl.col("h"), least).tolist() == []


@given(st.lists(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_among_is_membership(column: list[int], values: set[int]) -> None:
    frame = pl.LazyFrame({"c": column}, schema={"c": pl.Int64})
    found = frame.select("c", among(pl.col("c"), np.array(sorted(values), np.int64)).alias("found")).collect()
    assert found["found"].to_list() == [cell in values for cell in column]


def test_a_full_disk_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    with pytest.raises(UserError, match="temporary files is full") as caught:
        repeated_rows(pl.LazyFrame({ROW: [0, 1], "a": ["x", "x"]}, schema={ROW: pl.Int64, "a": pl.String}), ["a"])
    assert "TMPDIR" in caught.value.mend
