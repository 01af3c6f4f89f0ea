"""Sources: what each reads, a table of corrupt inputs, and the counts of real data."""

from pathlib import Path

import polars as pl
import pytest

from data.tables import real_data, validation_parameters
from prismrec.data import schema
from prismrec.data.sources import SOURCES, RawTables, read_source
from prismrec.data.validation import count_rules, validate_tables
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters

EVENTS = b"user_id,item_id,timestamp\nu1,a,100\nu2,b,200\n"
ITEMS = b"item_id,title\na,Alpha\nb,Beta\n"
RATINGS = b"1::10::5::978300760\r\n2::20::3::978302109\r\n"
FILMS = b"10::Am\xe9lie (2001)::Comedy|Romance\n20::Heat (1995)::Crime\n"
FILES = {
    "csv": {"interactions.csv": EVENTS, "items.csv": ITEMS},
    "movielens_1m": {"ratings.dat": RATINGS, "movies.dat": FILMS},
}


def write(tmp_path: Path, source: str, **changes: bytes | None) -> DataValidationParameters:
    """Write the source's good files but for `changes` (by stem; None leaves the file out)."""
    folder = tmp_path / "set"
    folder.mkdir()
    files = {name: changes.get(name.split(".")[0], content) for name, content in FILES[source].items()}
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return validation_parameters(source=source, data_root=str(tmp_path), folder="set")


def test_every_name_in_the_parameters_has_a_source() -> None:
    annotation = DataValidationParameters.model_fields["source"].annotation
    assert set(SOURCES) == set(annotation.__args__)


def test_synthetic_reads_no_folder() -> None:
    parameters = validation_parameters(synthetic={"users": 480, "items": 300, "cold_items": 8, "longest_history": 60})
    tables = read_source(parameters)
    assert len(tables.planted_truth) > 0
    assert tables.interactions["user_id"].n_unique() == 481  # and null


def test_csv(tmp_path: Path) -> None:
    tables = read_source(write(tmp_path, "csv"))
    assert tables.interactions.rows() == [
        ("u1", "a", 100, "interactions.csv", 0),
        ("u2", "b", 200, "interactions.csv", 1),
    ]
    assert tables.items.rows() == [
        ("a", "Alpha", "", [], "items.csv", 0),
        ("b", "Beta", "", [], "items.csv", 1),
    ]
    assert tables.planted_truth.schema == schema.PLANTED_TRUTH


def test_csv_with_text_and_categories_and_extra_columns(tmp_path: Path) -> None:
    items = b"item_id,price,categories,title,text\na,3,Sea|Travel,Alpha,Long &amp; good\nb,,,Beta,\n"
    tables = read_source(write(tmp_path, "csv", items=items))
    assert tables.items.select("item_id", "text", "categories").rows() == [
        ("a", "Long & good", ["Sea", "Travel"]),
        ("b", "", []),
    ]


@pytest.mark.parametrize(
    ("cell", "title"),
    [
        (b"Cr&egrave;me &amp; &#9733;", "Crème & ★"),
        (b'"two\nlines, one title"', "two lines, one title"),
        (b'"said ""no"""', 'said "no"'),
        ("Käse".encode(), "Käse"),
        (b"", None),
    ],
)
def test_csv_titles(tmp_path: Path, cell: bytes, title: str | None) -> None:
    tables = read_source(write(tmp_path, "csv", items=b"item_id,title\na," + cell + b"\n"))
    assert tables.items["title"].to_list() == [title]


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("100", 100),
        (" 100 ", 100),
        ("100.9", 100),
        ("1e3", 1000),
        ("9007199254740993", 9007199254740993),
        ("", None),
        ("yesterday", None),
        ("2014-05-01", None),
        ("nan", None),
        ("1e300", None),
    ],
)
def test_times_are_read_or_left_to_the_contract(tmp_path: Path, cell: str, seconds: int | None) -> None:
    parameters = write(tmp_path, "csv", interactions=f"user_id,item_id,timestamp\nu,a,{cell}\n".encode())
    assert read_source(parameters).interactions["timestamp"].to_list() == [seconds]


def test_movielens(tmp_path: Path) -> None:
    tables = read_source(write(tmp_path, "movielens_1m"))
    assert tables.interactions.rows() == [
        ("1", "10", 978300760, "ratings.dat", 0),
        ("2", "20", 978302109, "ratings.dat", 1),
    ]
    assert tables.items.rows()[0] == (
        "10", "Amélie (2001)", "Comedy, Romance", ["Comedy", "Romance"], "movies.dat", 0,
    )  # fmt: skip


@pytest.mark.parametrize(("plots", "text"), [(True, "Crime. A heist."), (False, "Crime")])
def test_movielens_plots(tmp_path: Path, plots: bool, text: str) -> None:
    parameters = write(tmp_path, "movielens_1m")
    extra = "20::Heat::1995::R::date::Crime::director::writer::actor::A heist.::url\r\n"
    (tmp_path / "set" / "movies_extrainfos.dat").write_text(extra, encoding="utf-8")
    tables = read_source(parameters.model_copy(update={"plots": plots}))
    assert tables.items["text"].to_list() == ["Comedy, Romance", text]


def test_movielens_plots_in_another_encoding_are_named(tmp_path: Path) -> None:
    parameters = write(tmp_path, "movielens_1m")
    (tmp_path / "set" / "movies_extrainfos.dat").write_bytes(b"20::H\xe9::" + b"x::" * 8 + b"url\n")
    with pytest.raises(UserError, match=r"movies_extrainfos\.dat is not UTF-8"):
        read_source(parameters)


# source, changed files (or: no folder at all), words that the message has to hold
CORRUPT: dict[str, tuple[str, dict[str, bytes | None] | str, list[str]]] = {
    "csv: no folder": ("csv", "folder", ["set", "PRISMREC_DATA_ROOT", "globals.yml"]),
    "csv: no interactions": (
        "csv",
        {"interactions": None},
        ["interactions.csv", "PRISMREC_DATA_ROOT", "globals.yml"],
    ),
    "csv: no items": ("csv", {"items": None}, ["items.csv", "PRISMREC_DATA_ROOT"]),
    "csv: no item column": (
        "csv",
        {"interactions": b"user_id,timestamp\nu,1\n"},
        ["interactions.csv", "'item_id'"],
    ),
    "csv: no title column": (
        "csv",
        {"items": b"item_id,name\na,Alpha\n"},
        ["items.csv", "'title'", "item_id, name"],
    ),
    "csv: wrong delimiter": (
        "csv",
        {"interactions": b"user_id;item_id;timestamp\nu;a;1\n"},
        ["interactions.csv", "'user_id'", ";"],
    ),
    "csv: header only": (
        "csv",
        {"interactions": b"user_id,item_id,timestamp\n"},
        ["interactions.csv", "no rows"],
    ),
    "csv: empty file": ("csv", {"items": b""}, ["items.csv", "no rows"]),
    "csv: latin-1": ("csv", {"items": b"item_id,title\na,Caf\xe9\n"}, ["items.csv", "UTF-8", "iconv"]),
    "csv: too many cells": (
        "csv",
        {"interactions": b"user_id,item_id,timestamp\nu,a,1,what\n"},
        ["interactions.csv", "well-formed"],
    ),
    "csv: unclosed quote": (
        "csv",
        {"items": b'item_id,title\na,"Alpha\nb,Beta\n'},
        ["items.csv", "well-formed"],
    ),
    "movielens: no folder": ("movielens_1m", "folder", ["set", "PRISMREC_DATA_ROOT"]),
    "movielens: no ratings": ("movielens_1m", {"ratings": None}, ["ratings.dat", "PRISMREC_DATA_ROOT"]),
    "movielens: no films": ("movielens_1m", {"movies": None}, ["movies.dat", "globals.yml"]),
    "movielens: tabs": (
        "movielens_1m",
        {"ratings": b"1\t10\t5\t978300760\n"},
        ["ratings.dat", "4 fields", "'::'"],
    ),
    "movielens: too few fields": ("movielens_1m", {"ratings": b"1::10::5\n"}, ["ratings.dat", "4 fields"]),
    "movielens: empty": ("movielens_1m", {"ratings": b""}, ["ratings.dat", "4 fields"]),
}


@pytest.mark.parametrize(("source", "change", "words"), CORRUPT.values(), ids=CORRUPT.keys())
def test_corrupt_input_is_named(
    tmp_path: Path, source: str, change: dict[str, bytes | None] | str, words: list[str]
) -> None:
    if change == "folder":
        parameters = validation_parameters(source=source, data_root=str(tmp_path), folder="set")
    else:
        parameters = write(tmp_path, source, **change)
    with pytest.raises(UserError) as error:
        read_source(parameters)
    for word in [*words, str(tmp_path)]:
        assert word in str(error.value)


# source, changed files, the rules that the bad rows break
BAD_ROWS = {
    "csv: short row": ("csv", {"interactions": EVENTS + b"u3,a\n"}, {"missing_time": 1}),
    "csv: blank cells": (
        "csv", {"interactions": EVENTS + b",a,1\nu, ,1\n"}, {"missing_user_id": 1, "missing_item_id": 1},
    ),
    "csv: quoted newline in an id": (
        "csv", {"interactions": EVENTS + b'u,"a\nb",1\n'}, {"unknown_item": 1},
    ),
    "csv: times as dates": ("csv", {"interactions": EVENTS + b"u,a,2014-05-01\n"}, {"missing_time": 1}),
    "csv: milliseconds": ("csv", {"interactions": EVENTS + b"u,a,1405296000000\n"}, {"too_late": 1}),
    "movielens: a rating of three fields": (
        "movielens_1m",
        {"ratings": RATINGS + b"3::10::5\n"},
        {"missing_user_id": 1, "missing_item_id": 1, "missing_time": 1},
    ),
    "movielens: a rating of five fields": (
        "movielens_1m",
        {"ratings": RATINGS + b"3::10::5::1::2\n"},
        {"missing_user_id": 1, "missing_item_id": 1, "missing_time": 1},
    ),
    "movielens: a film of two fields": (
        "movielens_1m", {"movies": FILMS + b"30::Up\n"}, {"missing_item_id": 1, "item_without_title": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "change", "rules"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_reach_the_quarantine(
    tmp_path: Path, source: str, change: dict[str, bytes | None], rules: dict[str, int]
) -> None:
    parameters = write(tmp_path, source, **change).model_copy(update={"max_quarantined_share": 1.0})
    raw = read_source(parameters)
    tables = validate_tables(raw.interactions, raw.items, parameters)
    assert count_rules(tables.quarantine) == rules
    assert len(tables.interactions) == len(tables.items) == 2


REAL = [
    ("movielens_1m", "ml-1m", 999_611, 6_040, 3_416),
    ("csv", "amazon14-beauty", 198_215, 22_332, 12_086),
    ("csv", "steam-100k", 126_824, 10_369, 3_593),
]


@pytest.mark.parametrize(("source", "folder", "events", "users", "items"), REAL)
def test_real_data_counts(source: str, folder: str, events: int, users: int, items: int) -> None:
    root = real_data(folder).parent
    raw: RawTables = read_source(validation_parameters(source=source, data_root=str(root), folder=folder))
    assert len(raw.interactions) == events
    assert raw.interactions["user_id"].n_unique() == users
    assert raw.interactions["item_id"].n_unique() == items
    assert raw.interactions.null_count().sum_horizontal().item() == 0
    assert raw.items["title"].null_count() == 0
    assert not raw.items.select(pl.col("title").str.contains("&amp;").any()).item()
