"""The corrupt inputs: each by name, its files' bytes, and what has to come of it.

`docs/reference/bad-input.md` is made of this table, and `test_corrupt.py` runs every line of it. A line changes one
thing of a small good data set of 24 events of 6 users and 4 items.
"""

import gzip
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

START = 1_400_000_000
HEADER = "user_id,item_id,timestamp\n"
ROWS = [f"u{user},{item},{START + 3600 * (6 * n + user)}" for n, item in enumerate("abcd") for user in range(1, 7)]
GOOD_ITEMS = "item_id,title\n" + "".join(f"{item},Title {item}\n" for item in "abcd")
Bytes = bytes | Callable[[Path], None]


def csv(*extra: str, header: str = HEADER, rows: list[str] = ROWS) -> bytes:
    """The good events and some more lines."""
    return (header + "".join(row + "\n" for row in [*rows, *extra])).encode()


def items(*extra: str) -> bytes:
    """The good items and some more lines."""
    return (GOOD_ITEMS + "".join(row + "\n" for row in extra)).encode()


@dataclass(frozen=True)
class Refused:
    """The run stops, with words that its message has to hold."""

    says: str
    names: tuple[str, ...] = ("interactions.csv",)


@dataclass(frozen=True)
class Taken:
    """The run goes on: rows in the quarantine by rule, and warnings that are given."""

    quarantined: Mapping[str, int] = field(default_factory=dict)
    warned: tuple[str, ...] = ()
    events: int = 24
    items: int = 4


@dataclass(frozen=True)
class Corrupt:
    """One corrupt input: what is done, the files that differ (None: left out), parameters, and what it gets."""

    what: str
    files: Mapping[str, Bytes | None]
    gets: Refused | Taken
    interactions: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    row: str = ""  # what an example in the quarantine has to show


def events(data: bytes | Callable[[Path], None], what: str, gets: Refused | Taken, **more: Any) -> Corrupt:
    return Corrupt(what, {"interactions.csv": data}, gets, **more)


def things(data: bytes, what: str, gets: Refused | Taken, **more: Any) -> Corrupt:
    return Corrupt(what, {"items.csv": data}, gets, **more)


def named(name: str, data: Bytes, what: str, gets: Refused | Taken, **more: Any) -> Corrupt:
    """Events in a file of another name."""
    return Corrupt(what, {name: data, "interactions.csv": None}, gets, interactions={"path": name, **more})


def lines(*extra: str) -> bytes:
    """The good events as JSON Lines and some more."""
    names = HEADER.strip().split(",")
    rows = [json.dumps(dict(zip(names, row.split(","), strict=True))) for row in ROWS]
    return "".join(row + "\n" for row in [*rows, *extra]).encode()


def parquet(**columns: Any) -> bytes:
    """The good events as Parquet, with some columns replaced."""
    users, what, when = zip(*(row.split(",") for row in ROWS), strict=True)
    good = {"user_id": list(users), "item_id": list(what), "timestamp": [int(time) for time in when]}
    stream = io.BytesIO()
    pq.write_table(pa.table({**good, **columns}), stream)
    return stream.getvalue()


def twice_named() -> bytes:
    table = pa.table([["u1"], ["a"], [START], ["b"]], names=["user_id", "item_id", "timestamp", "item_id"])
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def replaced(old: str, new: str, count: int = 1) -> bytes:
    """The good events with some text replaced."""
    return csv().replace(old.encode(), new.encode(), count)


PARQUET = parquet()
HOUR = 3600
LATER = START + 10**6
UNREAD = {"unreadable_row": 1}

INPUTS: dict[str, Corrupt] = {
    # the file as such
    "no events file": Corrupt("there is no such file", {"interactions.csv": None}, Refused("is missing")),
    "no items file": Corrupt("there is no such file", {"items.csv": None}, Refused("is missing", ("items.csv",))),
    "misspelt file name": Corrupt(
        "the path names a file that almost exists",
        {},
        Refused("name it if 'interactions.csv' is meant", ("interaction.csv",)),
        interactions={"path": "interaction.csv"},
    ),
    "a path with NUL": Corrupt(
        "the path holds a character that no path can",
        {},
        Refused("cannot be read", ("inter\\x00actions.csv", "without control characters")),
        interactions={"path": "inter\0actions.csv"},
    ),
    "a pattern that fits nothing": Corrupt(
        "no file fits the pattern",
        {},
        Refused("No file fits 'logs/*.csv'", ("interactions.csv",)),
        interactions={"path": "logs/*.csv"},
    ),
    "a directory for a file": events(
        lambda path: path.mkdir(), "the path is a folder", Refused("is a folder, not a file")
    ),
    "empty file": events(b"", "the file has no byte", Refused("holds no rows")),
    "header only": events(HEADER.encode(), "the file ends after its header", Refused("holds no rows")),
    "line breaks only": events(b"\n\r\n\n", "the file holds empty lines", Refused("holds no rows")),
    "items header only": things(
        b"item_id,title\n", "the items end after their header", Refused("holds no rows", ("items.csv",))
    ),
    "truncated gzip": named(
        "e.csv.gz",
        gzip.compress(csv(), mtime=0)[:-40],
        "the end of a .gz is missing",
        Refused("cut off or damaged", ("e.csv.gz",)),
    ),
    "corrupted gzip": named(
        "e.csv.gz",
        gzip.compress(csv(), mtime=0)[:60] + b"\0" * 8 + gzip.compress(csv(), mtime=0)[68:],
        "bytes within a .gz are wrong",
        Refused("cut off or damaged", ("e.csv.gz",)),
    ),
    "truncated zstd": named(
        "e.csv.zst",
        pa.compress(csv(), codec="zstd", asbytes=True)[:-9],
        "the end of a .zst is missing",
        Refused("cut off or damaged", ("e.csv.zst",)),
    ),
    "truncated parquet": named(
        "e.parquet", PARQUET[:-20], "the end of a .parquet is missing", Refused("cut off or damaged", ("e.parquet",))
    ),
    "parquet of another kind": named(
        "e.parquet", csv(), "text is named .parquet", Refused("cut off or damaged", ("e.parquet",))
    ),
    "a spreadsheet": events(
        b"PK\x03\x04" + bytes(60), "an .xlsx or .zip is named .csv", Refused("zip archive or a spreadsheet")
    ),
    "gzip named csv": Corrupt("a .gz is named .csv", {"interactions.csv": gzip.compress(csv(), mtime=0)}, Taken()),
    # text and its encoding
    "byte order mark": events(b"\xef\xbb\xbf" + csv(), "the file begins with U+FEFF", Taken()),
    "byte order marks between rows": events(
        csv("\ufeff" + HEADER.strip(), "\ufeff", rows=["\ufeff" + ROWS[0], *ROWS[1:]]),
        "files that each began with U+FEFF were put together",
        Taken({"unreadable_row": 1, "missing_time": 1, "unknown_item": 1}, events=24, warned=("lookalike_user_ids",)),
    ),
    "utf-16": events(csv().decode().encode("utf-16"), "the file is UTF-16", Refused("looks like UTF-16")),
    "latin-1 in utf-8": events(
        csv() + b"us\xe9r,a,1400100000\n", "one row has a byte that is no UTF-8", Taken(UNREAD), row="us\\\\xe9r"
    ),
    "latin-1 throughout": events(
        csv(rows=[]) + b"".join(b"\xe9" + row.encode() + b"\n" for row in ROWS),
        "most rows are no UTF-8",
        Refused("holds bytes that are no text in the encoding", ("interactions.csv", "encoding: latin-1")),
    ),
    "windows quotes throughout": things(
        b"item_id,title\n" + b"".join(b"%c,\x93Title\x94\n" % item for item in b"abcd"),
        "titles are cp1252",
        Refused("cannot be read", ("items.csv", "encoding: cp1252")),
    ),
    "NUL in an id": events(csv("u\x00x,a,1400100000"), "an id has the character NUL", Taken({"control_in_user_id": 1})),
    "old Mac line ends": events(
        csv().replace(b"\n", b"\r"),
        "lines end with a carriage return alone",
        Refused("ends its lines with carriage returns alone"),
    ),
    "windows line ends": events(csv().replace(b"\n", b"\r\n"), "lines end with CR LF", Taken()),
    "no line break at the end": events(csv()[:-1], "the last line has no end", Taken()),
    "blank lines": events(csv("", "", rows=["", *ROWS]), "empty lines stand between rows", Taken()),
    # delimiters and quotes
    "other delimiter": events(
        csv().replace(b",", b";"), "cells are separated by semicolons, none is declared", Taken()
    ),
    "wrong delimiter": events(
        csv().replace(b",", b";"),
        "a comma is declared, semicolons are there",
        Refused("has no column", ("interactions.csv", "separated by ';'")),
        interactions={"delimiter": ","},
    ),
    "quoted newline": events(
        csv('u1,"a\nb",1400100000'),
        "an id in quotes holds a line break",
        Taken({"control_in_item_id": 1, "unknown_item": 1}),
        row="a\\nb",
    ),
    "quoted newline in a title": things(
        items('e,"Two\nlines"'), "a title in quotes holds a line break", Taken(items=5)
    ),
    "unclosed quote": events(
        csv('u1,"a,1400100000', "u2,b,1400100001"), "a quote is never closed", Taken(UNREAD, events=25), row='u1,\\"a'
    ),
    "stray quote": events(
        csv('"u"1,a,1400100000', "u2,b,1400100001"), "a quote ends within a cell", Taken(UNREAD, events=25)
    ),
    "missing cell": events(csv("u1,a"), "a row has a cell too few", Taken(UNREAD), row="u1,a"),
    "additional cell": events(
        csv("u1,a,1400100000,x"), "a row has a cell too many", Taken(UNREAD), row="u1,a,1400100000,x"
    ),
    "every row with a cell too many": events(
        csv(rows=[row + ",x" for row in ROWS]),
        "the header has fewer cells than the rows",
        Refused("has another number of cells than there are columns"),
    ),
    # columns
    "missing column": events(
        csv(header="user_id,item_id\n"), "there is no column of times", Refused("has no column 'timestamp'")
    ),
    "misspelt column": events(
        csv(header="user_id,itemid,timestamp\n"),
        "a column is written otherwise",
        Refused("has no column 'item_id'", ("interactions.csv", "'itemid' may be meant")),
    ),
    "additional column": events(
        csv(header="note," + HEADER, rows=["x," + row for row in ROWS]),
        "there is a column that nobody asked for",
        Taken(),
    ),
    "a column called like one of ours": events(
        csv(header="user_id,item_id,timestamp,as_given\n", rows=[row + ",view" for row in ROWS] + ["u1,a,soon,view"]),
        "a column of the file has a name that the tables use too",
        Taken({"missing_time": 1}),
        interactions={"columns": {"event": "as_given"}},
        row='as_given\\":\\"view',
    ),
    "duplicate header": events(
        csv(header="user_id,item_id,timestamp,item_id\n", rows=[row + ",x" for row in ROWS]),
        "two columns have one name",
        Refused("more than one column 'item_id'"),
    ),
    "no header": events(
        csv(header=""),
        "the first row is an event",
        Refused("has no column 'user_id', 'item_id', 'timestamp'", ("interactions.csv", "looks like data", "'header'")),
    ),
    "items without title column": things(
        b"item_id,name\na,A\n",
        "there is no column of titles",
        Refused("has no column 'title'", ("items.csv", "item_id, name")),
    ),
    # ids
    "ids that change type half way": events(
        csv("1,a,1400100000", "2.0,a,1400100001"), "ids are words, then numbers", Taken(events=26)
    ),
    "1e3 as an id": events(csv("1e3,a,1400100000"), "an id looks like a number and stays as given", Taken(events=25)),
    "leading zeros": events(
        csv("007,a,1400100000", "7,a,1400100001"),
        "two ids differ by leading zeros and stay two",
        Taken(events=26, warned=("lookalike_user_ids",)),
    ),
    "huge integer ids": events(csv(f"{10**40},a,1400100000"), "an id is a number beyond 64 bits", Taken(events=25)),
    "missing ids": events(
        csv(",a,1400100000", "u1,,1400100000"),
        "cells of ids are empty",
        Taken({"missing_user_id": 1, "missing_item_id": 1}),
    ),
    "blank id": events(csv("  ,a,1400100000"), "an id is blanks", Taken({"missing_user_id": 1})),
    "over-long id": events(csv("x" * 300 + ",a,1400100000"), "an id has 300 characters", Taken({"long_user_id": 1})),
    "emoji ids": events(csv("👩‍👩‍👧,a,1400100000"), "an id is an emoji", Taken(events=25)),
    "right-to-left ids": events(csv("מזהה,a,1400100000"), "an id is written from right to left", Taken(events=25)),
    "zero-width id": events(
        csv("\u200b,a,1400100000"), "an id is one invisible character", Taken({"missing_user_id": 1})
    ),
    "zero-width in ids": events(
        csv("u1\u200b,a,1400100000"),
        "two ids look alike and stay two",
        Taken(events=25, warned=("lookalike_user_ids",)),
    ),
    "floating-point ids": named(
        "e.parquet",
        parquet(user_id=[float(i) for i in range(24)]),
        "a column of ids is of floats",
        Refused("ids as floating-point numbers", ("e.parquet", "user_id")),
    ),
    "unknown item": events(
        csv("u1,zzz,1400100000"), "an event's item is not in the items", Taken({"unknown_item": 1}, events=24)
    ),
    "all items unknown": events(
        csv(rows=[row.replace(",", ",x", 1) for row in ROWS]),
        "no event's item is in the items",
        Refused("unknown_item"),
        parameters={"max_quarantined_share": 0.05},
    ),
    # times
    "negative time": events(csv("u1,a,-5"), "a time lies before 1970", Taken({"too_early": 1}, events=24)),
    "zero time": events(
        csv("u1,a,0"), "a time is 0, the first second of 1970", Taken(events=25, warned=("mixed_time_units",))
    ),
    "far future": events(csv("u1,a,99999999999"), "a time lies in the year 5138", Taken({"too_late": 1})),
    "mixed units": events(csv(f"u1,a,{LATER}000"), "one row has milliseconds among seconds", Taken({"too_late": 1})),
    "milliseconds": events(csv(rows=[row + "000" for row in ROWS]), "all times are milliseconds", Taken()),
    "mixed zones": events(
        csv(
            rows=[
                "u1,a,2014-05-13T18:00:00+02:00",
                "u1,b,2014-05-13T16:00:01Z",
                "u1,c,2014-05-13 16:00:02",
                "u1,d,2014-05-13",
            ]
        ),
        "times have several zones, or none",
        Taken(events=4, warned=()),
    ),
    "unreadable time": events(csv("u1,a,yesterday"), "a time is a word", Taken({"missing_time": 1}), row="yesterday"),
    "impossible date": events(
        csv(rows=["u1,a,2014-05-13", "u1,b,2014-05-14", "u2,b,2014-02-31"]),
        "a date is in no calendar",
        Taken({"missing_time": 1}, events=2),
        row="2014-02-31",
    ),
    "dates after a cell that is none": events(
        csv(rows=["u1,a,NULL", "u1,b,20140513", "u2,b,20140514", "u2,a,20140515"]),
        "dates without dashes, and one of the first cells is no date",
        Taken({"missing_time": 1}, events=3),
        row="NULL",
    ),
    "impossible zone": events(
        csv(rows=["u1,a,2014-05-13T12:00:00+02:00", "u1,b,2014-05-14", "u2,b,2014-05-15T12:00:00+99:99"]),
        "a zone lies further away than any",
        Taken({"missing_time": 1}, events=2),
        row="+99:99",
    ),
    "no times at all": events(
        csv(rows=["u1,a,soon", "u2,b,later"]), "all times are words", Refused("holds no times that can be told")
    ),
    "wrong unit declared": events(
        csv(),
        "seconds are declared milliseconds",
        Taken(warned=("declared_time_unit",)),
        interactions={"time_unit": "ms"},
    ),
    "dates declared a number": events(
        csv(rows=["u1,a,2014-05-13", "u1,b,2014-05-14"]),
        "ISO 8601 is declared milliseconds",
        Refused("holds no times in 'ms'", ("interactions.csv", "look like 'iso8601'")),
        interactions={"time_unit": "ms"},
    ),
    "all events at one second": events(
        csv(rows=[row.rsplit(",", 1)[0] + f",{START}" for row in ROWS]),
        "all times are equal",
        Taken(warned=("one_second",)),
    ),
    "huge time": events(csv(f"u1,a,{10**30}"), "a time is beyond 64 bits", Taken({"missing_time": 1}), row=str(10**30)),
    # weights
    "NaN weight": events(
        csv(header="user_id,item_id,timestamp,w\n", rows=[row + ",1" for row in ROWS] + ["u1,a,1400100000,NaN"]),
        "a weight is NaN",
        Taken({"weight_not_finite": 1}),
        interactions={"columns": {"weight": "w"}},
    ),
    "infinite weight": events(
        csv(header="user_id,item_id,timestamp,w\n", rows=[row + ",1" for row in ROWS] + ["u1,a,1400100000,inf"]),
        "a weight is infinite",
        Taken({"weight_not_finite": 1}),
        interactions={"columns": {"weight": "w"}},
    ),
    "unreadable weight": events(
        csv(header="user_id,item_id,timestamp,w\n", rows=[row + ",1" for row in ROWS] + ["u1,a,1400100000,lots"]),
        "a weight is a word",
        Taken(UNREAD),
        interactions={"columns": {"weight": "w"}},
        row="lots",
    ),
    # the whole table
    "exact duplicates": events(csv(ROWS[0], ROWS[0]), "a row stands three times", Taken({"duplicate_row": 2})),
    "one user with very many events": events(
        csv(*(f"u1,a,{LATER + i}" for i in range(2000))),
        "one user has 2,000 events in an hour",
        Taken(events=2024, warned=("dominant_user", "user_burst")),
    ),
    "one item in 99 % of events": events(
        csv(*(f"v{i},a,{LATER + 9 * i}" for i in range(2400))),
        "nearly all events are of one item",
        Taken(events=2424, warned=("dominant_item", "users_with_one_event")),
    ),
    "users with one event": events(
        csv("x,a,1400100000"), "a user has one event", Taken(events=25, warned=("users_with_one_event",))
    ),
    "too much of it broken": events(
        csv(*(f"u1,a{i}" for i in range(4))),
        "a seventh of the rows is broken",
        Refused("unreadable_row"),
        parameters={"max_quarantined_share": 0.05},
    ),
    "a long time without events": events(
        csv("u1,a,1500000000"), "three years are missing", Taken(events=25, warned=("time_gap",))
    ),
    # items
    "items without title": things(items("e,"), "a title is empty", Taken({"item_without_title": 1})),
    "items twice": things(items("a,Another"), "an item stands twice", Taken({"duplicate_item": 1})),
    "titles twice": things(items("e,Title a"), "two items share a title", Taken(items=5, warned=("duplicate_title",))),
    "1 MB title": things(items("e," + "x" * 1_000_000), "a title has a million characters", Taken({"long_title": 1})),
    "titles like lists": things(items("e,[1408]", "f,[null]"), "titles look like lists and stay", Taken(items=6)),
    "title of junk": things(
        items("e,\u200b\x07&nbsp;"), "a title holds nothing that can be seen", Taken({"item_without_title": 1})
    ),
    # JSON Lines and Parquet
    "a line that is no JSON": named("e.jsonl", lines('{"user_id": '), "a line is cut off", Taken(UNREAD)),
    "a line that is no object": named("e.jsonl", lines("[1, 2]"), "a line is a list", Taken(UNREAD)),
    "a nested id": named(
        "e.jsonl", lines('{"user_id": {"a": 1}, "item_id": "a", "timestamp": 1}'), "an id is an object", Taken(UNREAD)
    ),
    "JSON without a name": named(
        "e.jsonl",
        lines('{"item_id": "a", "timestamp": 1400100000}'),
        "a row lacks the user",
        Taken({"missing_user_id": 1}),
    ),
    "misspelt JSON name": named(
        "e.jsonl",
        lines().replace(b"item_id", b"itemid"),
        "all rows name a column otherwise",
        Refused("has no column 'item_id'", ("e.jsonl", "'itemid' may be meant")),
    ),
    "one JSON array": named(
        "e.json",
        b"[" + lines().strip().replace(b"\n", b",") + b"]",
        "the file is one JSON array",
        Refused("one JSON array", ("e.json", "jq")),
    ),
    "half a surrogate": named(
        "e.jsonl",
        lines('{"user_id": "\\ud800", "item_id": "a", "timestamp": 1400100000}'),
        "an id is half a character",
        Taken(UNREAD),
    ),
    "a column of another type": named(
        "e.parquet",
        parquet(item_id=[[1]] * 24),
        "a column of ids is of lists",
        Refused("which is no id, time or number", ("e.parquet", "item_id")),
    ),
    "bytes for ids": named(
        "e.parquet",
        parquet(user_id=[b"\xff%d" % i for i in range(24)]),
        "a column of ids is of bytes that are no text",
        Refused("holds bytes (binary) that are no text", ("e.parquet", "user_id")),
    ),
    "duplicate parquet column": named(
        "e.parquet",
        twice_named(),
        "two columns have one name",
        Refused("more than one column 'item_id'", ("e.parquet",)),
    ),
    "parquet without rows": named(
        "e.parquet",
        parquet(
            user_id=pa.array([], pa.string()), item_id=pa.array([], pa.string()), timestamp=pa.array([], pa.int64())
        ),
        "a table has no row",
        Refused("holds no rows", ("e.parquet",)),
    ),
}
