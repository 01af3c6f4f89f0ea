"""Times and texts: units, ISO 8601, and what becomes of titles."""

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.data.sources.texts import as_categories, joined, list_cell, plain_text
from prismrec.data.sources.times import PER_SECOND, seconds, tell_unit

NOON = 1_706_702_400  # 2024-01-31T12:00:00Z


def second(cell: str, unit: str) -> int | None:
    frame = pl.DataFrame({"t": [cell]})
    value: int | None = frame.select(seconds("t", frame.schema["t"], unit)).item()  # type: ignore[arg-type]
    return value


@pytest.mark.parametrize(
    ("cell", "unit", "expected"),
    [
        ("100", "s", 100),
        (" 100 ", "s", 100),
        ("1.4e9", "s", 1_400_000_000),
        ("-1.5", "s", -2),
        ("9007199254740993", "s", 9007199254740993),  # no float holds it
        ("1706702400999", "ms", NOON),
        ("-1", "ms", -1),
        ("1706702400999999", "us", NOON),
        ("1706702400999999999", "ns", NOON),
        ("NaN", "s", None),
        ("inf", "s", None),
        ("1e300", "s", None),
        ("", "s", None),
        ("noon", "s", None),
        ("2024-01-31T12:00:00Z", "iso8601", NOON),
        ("2024-01-31 12:00", "iso8601", NOON),
        ("2024-01-31T12:00:00.999999", "iso8601", NOON),
        ("2024-01-31T14:00:00+02:00", "iso8601", NOON),
        ("2024-01-31T06:30:00-0530", "iso8601", NOON),
        ("2024-01-31T13:00:00+01", "iso8601", NOON),
        ("2024-01-31 12:00:00 UTC", "iso8601", NOON),
        ("2024-01-31", "iso8601", NOON - 43_200),
        ("20240131", "iso8601", NOON - 43_200),
        ("2024-01-31T12:00:00+14:59", "iso8601", NOON - 14 * 3600 - 59 * 60),
        ("2024-01-31T12:00:00+15:00", "iso8601", None),
        ("2024-01-31T12:00:00+99:99", "iso8601", None),
        ("2024-01-31T12:00:00-0960", "iso8601", None),
        ("2024-02-31", "iso8601", None),
        ("31.01.2024", "iso8601", None),
        ("1706702400", "iso8601", None),
    ],
)
def test_seconds(cell: str, unit: str, expected: int | None) -> None:
    assert second(cell, unit) == expected


@given(st.integers(-(2**62), 2**62), st.sampled_from(sorted(PER_SECOND)))
def test_whole_numbers_are_floored_exactly(number: int, unit: str) -> None:
    assert second(str(number), unit) == number // PER_SECOND[unit]
    frame = pl.DataFrame({"t": [number]})
    assert frame.select(seconds("t", frame.schema["t"], unit)).item() == number // PER_SECOND[unit]  # type: ignore[arg-type]


@settings(max_examples=50)
@given(st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_iso_agrees_with_the_standard_library(moment: datetime, minutes: int) -> None:
    given_ = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert second(given_.isoformat(), "iso8601") == int(given_.replace(microsecond=0).timestamp())
    assert second(moment.isoformat(), "iso8601") == int(moment.replace(microsecond=0, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("cells", "unit"),
    [
        (["881250949", "1700000000"], "s"),
        (["1700000000000", "1700000000001"], "ms"),
        (["1700000000000000"], "us"),
        (["1700000000000000000"], "ns"),
        (["1700000000.25"], "s"),
        (["2024-01-31", "2024-01-31T12:00:00Z", "soon"], "iso8601"),
        (["20240131", "20240201"], "iso8601"),
        (["soon", "20240131", "20240201"], "iso8601"),
        (["0", "20240131", "20240201", "20240230"], "iso8601"),
        (["20240131", "1700000000", "1700000001"], "s"),
        (["soon", "-1", "1700000000000", "1700000000001", "1700000000002"], "ms"),
        (["1700000000", "1700000001", "1700000000000"], "s"),
        (["soon", "later", "1700000000"], None),
        ([], None),
    ],
)
def test_units_are_told(cells: list[str], unit: str | None) -> None:
    assert tell_unit(pl.Series(cells, dtype=pl.String)) == unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("&quot;A&quot; &#39;B&#39; caf&eacute;", "\"A\" 'B' café"),
        ("two\r\n lines\t", "two lines"),
        ("ze\u200bro\ufeff wi\u00addth", "zero width"),
        ("e\u0301", "é"),
        ("a\x00b\x07c", "abc"),
        ("\u202eevil\u202c", "evil"),
        ("👩‍👩‍👧 שלום 日本", "👩‍👩‍👧 שלום 日本"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u200b", ""),
        (None, None),
    ],
)
def test_plain_text(text: str | None, expected: str | None) -> None:
    assert plain_text(text) == expected


@given(st.text(max_size=30))
def test_cleaning_leaves_one_line_and_nothing_invisible(text: str) -> None:
    cleaned = plain_text(text)
    assert cleaned is not None
    assert cleaned == " ".join(cleaned.split())
    assert not set(cleaned) & set("\x00\x07\u200b\ufeff\u202e")


def test_lists_in_cells() -> None:
    assert as_categories(list_cell([["Beauty", "Hair &amp; Nails"], ["Beauty"]]), "|") == ["Beauty", "Hair & Nails"]
    assert as_categories("Drama|(no genres listed)||Drama", "|") == ["Drama"]
    assert as_categories("[NEW] things", "|") == ["[NEW] things"]
    assert as_categories(None, "|") == []
    assert joined(list_cell(["One.", "Two.", None, {"é": 3}])) == 'One. Two. {"é": 3}'


@pytest.mark.parametrize("text", ["[1408]", "[null]", '["a"]', "[]", "[1"])
def test_a_text_that_looks_like_a_list_stays_a_text(text: str) -> None:
    assert joined(text) == text
    assert as_categories(text, "|") == [text]
