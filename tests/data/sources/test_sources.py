"""Sources: what each reads, from small files of every layout, and the counts of real data."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data.tables import real_data, validation_parameters
from prismrec.data import schema
from prismrec.data.report import times_known
from prismrec.data.sources import SOURCES, RawTables, read_source
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters

EVENTS = b"user_id,item_id,timestamp\nu1,a,100\nu2,b,200\n"
ITEMS = b"item_id,title\na,Alpha\nb,Beta\n"


def read(root: Path, source: str, contents: dict[str, bytes], **parameters: Any) -> RawTables:
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return read_source(validation_parameters(source=source, data_root=str(root), **parameters))


def events(tables: RawTables) -> list[tuple[Any, ...]]:
    return tables.interactions.select(pl.exclude(schema.PROBLEM, schema.AS_GIVEN)).collect().rows()


def items(tables: RawTables) -> list[tuple[Any, ...]]:
    return tables.items.select(schema.ITEM_ID, schema.TITLE, schema.TEXT, schema.CATEGORIES).rows()


def test_every_name_in_the_parameters_has_a_source() -> None:
    annotation = DataValidationParameters.model_fields["source"].annotation
    assert {*SOURCES, "synthetic"} == set(annotation.__args__)  # type: ignore[union-attr]


def test_synthetic_reads_no_folder() -> None:
    parameters = validation_parameters(synthetic={"users": 480, "items": 300, "cold_items": 8, "longest_history": 60})
    tables = read_source(parameters)
    assert len(tables.planted_truth) > 0
    assert tables.interactions.collect_schema() == schema.RAW_INTERACTIONS
    assert tables.interactions.select("user_id").unique().collect().height == 481, "and null"


def test_files_as_they_are_by_default(tmp_path: Path) -> None:
    tables = read(tmp_path, "files", {"interactions.csv": EVENTS, "items.csv": ITEMS})
    assert events(tables) == [
        ("u1", "a", 100, None, None, "interactions.csv", 0),
        ("u2", "b", 200, None, None, "interactions.csv", 1),
    ]
    assert items(tables) == [("a", "Alpha", "", []), ("b", "Beta", "", [])]
    assert tables.items.schema == schema.RAW_ITEMS
    assert tables.planted_truth.schema == schema.PLANTED_TRUTH
    assert tables.facts["interactions"]["time"] == {
        "unit": "s",
        "told": "detected from the first 2 rows of interactions.csv",
        "zone": "UTC",
    }
    assert json.dumps(tables.facts) == json.dumps(read(tmp_path, "files", {}).facts)


def test_files_of_any_names(tmp_path: Path) -> None:
    files = {
        "log-2.tsv.gz": gzip.compress(b"uid\tsku\tts\twhat\tstars\n01\t0a\t2024-01-31\tbuy\t4.5\n"),
        "log-1.tsv": b"stars\tuid\tsku\tts\twhat\n1\t1e3\tb\t2024-01-30T00:00:00Z\t\n",
        "things.jsonl": b'{"sku": "0a", "name": "A", "d": ["x", "y"], "t": [["p"], ["q"]]}\n',
    }
    columns = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "event": "what", "weight": "stars"}
    tables = read(
        tmp_path,
        "files",
        files,
        files={
            "interactions": {"path": "log-*", "columns": columns},
            "items": {
                "path": "things.jsonl",
                "columns": {"item_id": "sku", "title": "name", "text": "d", "categories": "t"},
            },
        },
    )
    assert events(tables) == [
        ("1e3", "b", 1_706_572_800, None, 1.0, "log-1.tsv", 0),
        ("01", "0a", 1_706_659_200, "buy", 4.5, "log-2.tsv.gz", 0),
    ]
    assert items(tables) == [("0a", "A", "x y", ["p", "q"])]
    assert [file["name"] for file in tables.facts["interactions"]["files"]] == ["log-1.tsv", "log-2.tsv.gz"]


def test_files_without_items_and_times(tmp_path: Path) -> None:
    tables = read(
        tmp_path,
        "files",
        {"e1.csv": b"u,i\nx,b\nx,a\n", "e2.csv": b"u,i\ny,b\n"},
        files={
            "interactions": {"path": "e?.csv", "columns": {"user_id": "u", "item_id": "i", "timestamp": None}},
            "items": {"path": None},
        },
    )
    assert [row[2] for row in events(tables)] == [0, 1, 2]
    assert items(tables) == [("a", "a", "", []), ("b", "b", "", [])]
    assert "no times" in tables.facts["interactions"]["time"]["told"]
    assert not times_known(tables.facts)
    assert "ids are their titles" in tables.facts["notes"][0]


def test_a_declared_unit_wins_and_doubt_is_stated(tmp_path: Path) -> None:
    files = {"interactions": {"time_unit": "ms"}}
    tables = read(
        tmp_path, "files", {"interactions.csv": EVENTS.replace(b"00\n", b"00000000\n"), "items.csv": ITEMS}, files=files
    )
    assert [row[2] for row in events(tables)] == [100_000, 200_000]
    time = tables.facts["interactions"]["time"]
    assert (time["told"], time["unit"], time["looks_like"]) == ("declared", "ms", "s")


def test_what_cannot_be_read_is_kept_as_given(tmp_path: Path) -> None:
    data = b"user_id,item_id,timestamp,w\nu1,a,soon,1\nu2,b,200,many\nu3,b,200,\n"
    tables = read(
        tmp_path,
        "files",
        {"interactions.csv": data, "items.csv": ITEMS},
        files={"interactions": {"columns": {"weight": "w"}, "time_unit": "s"}},
    )
    made = tables.interactions.collect()
    assert made.get_column("timestamp").to_list() == [None, 200, 200]
    assert made.get_column("problem").to_list() == [None, "unreadable_weight", None]
    first, second, third = made.get_column("as_given")
    assert json.loads(first)["timestamp"] == "soon"
    assert json.loads(second)["w"] == "many"
    assert third is None


OURS = [*schema.RAW_INTERACTIONS, "our weight", "our time", "line", "parts", "cell 0"]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", ["csv", "quoted", "jsonl", "escaped", "parquet"])
def test_a_column_may_be_called_like_one_of_ours(tmp_path: Path, name: str, kind: str) -> None:
    header = {"u": ["x", "y"], "i": ["a", "b"], "t": ["100", "soon"], name: ["1", "2"]}
    rows = [dict(zip(header, cells, strict=True)) for cells in zip(*header.values(), strict=True)]
    quote = '"' if kind == "quoted" else ""
    file = tmp_path / f"e.{kind}"
    if kind in ("csv", "quoted"):
        lines = [",".join(quote + cell + quote for cell in row) for row in ([*header], *(row.values() for row in rows))]
        file.write_text("\n".join(lines) + "\n")
    elif kind == "parquet":
        pl.DataFrame(header).write_parquet(file)
    else:
        more = {"note": "\n"} if kind == "escaped" else {}
        file.write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t", "event": name, "weight": name}
    tables = read(
        tmp_path,
        "files",
        {"items.csv": f"i,{name}\na,A\nb,B\n".encode()},
        files={
            "interactions": {"path": file.name, "columns": columns, "time_unit": "s"},
            "items": {"columns": {"item_id": "i", "title": name, "text": name}},
        },
    )
    assert tables.interactions.collect().rows() == [
        ("x", "a", 100, "1", 1.0, file.name, 0, None, None),
        ("y", "b", None, "2", 2.0, file.name, 1, None, json.dumps(rows[1], separators=(",", ":"))),
    ]
    assert items(tables) == [("a", "A", "A", []), ("b", "B", "B", [])]
    assert tables.items.get_column(schema.SOURCE_ROW).to_list() == [0, 1]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_titles_that_look_like_lists_stay(tmp_path: Path, kind: str) -> None:
    cells = {"item_id": ["a", "b"], "title": ["[1408]", "[null]"], "d": ["[REC]", "[2, 3]"], "t": ["[]", "x|[4]"]}
    frame = pl.DataFrame(cells)
    file = tmp_path / f"i.{kind}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](file)
    columns = {"text": "d", "categories": "t"}
    tables = read(
        tmp_path, "files", {"interactions.csv": EVENTS}, files={"items": {"path": file.name, "columns": columns}}
    )
    assert items(tables) == [("a", "[1408]", "[REC]", ["[]"]), ("b", "[null]", "[2, 3]", ["x", "[4]"])]


def test_early_cells_that_are_no_dates_change_no_date(tmp_path: Path) -> None:
    data = b"user_id,item_id,timestamp\nu0,a,NULL\n" + b"u1,a,20240131\n" * 3
    tables = read(tmp_path, "files", {"interactions.csv": data, "items.csv": ITEMS})
    assert [row[2] for row in events(tables)] == [None, 1_706_659_200, 1_706_659_200, 1_706_659_200]


HEADLESS = [b"anna,a,100\nbert,b,200\n", b"anna@x.org,a,b\nbert@x.org,b,c\n", b"anna,5,5\n"]


@pytest.mark.parametrize("data", HEADLESS)
def test_a_first_row_that_is_no_header_is_not_shown(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="first row, of 3 cells, looks like data") as caught:
        read(tmp_path, "files", {"interactions.csv": data, "items.csv": ITEMS})
    assert "'header'" in caught.value.mend
    assert "anna" not in str(caught.value)


def test_rows_that_cannot_be_read_are_not_shown(tmp_path: Path) -> None:
    data = EVENTS.splitlines(keepends=True)[0] + b"u1,a,100\n" + b"anna,a,100,x\n" * 2
    with pytest.raises(UserError, match=r"row 1 \(from 0, .*\) has 12 characters, 3 of them delimiters") as caught:
        read(tmp_path, "files", {"interactions.csv": data, "items.csv": ITEMS})
    assert "anna" not in str(caught.value)


def test_times_of_another_unit_than_the_declared_one(tmp_path: Path) -> None:
    files = {"interactions": {"time_unit": "ms"}}
    data = b"user_id,item_id,timestamp\nu1,a,2024-01-31\nu2,b,2024-02-01\n"
    with pytest.raises(UserError, match="no times in 'ms', which is declared") as caught:
        read(tmp_path, "files", {"interactions.csv": data, "items.csv": ITEMS}, files=files)
    assert "9999-99-99" in caught.value.where
    assert "set time_unit to iso8601 or auto" in caught.value.mend
    data = data.replace(b"2024-01-31", b"anna").replace(b"2024-02-01", b"bert")
    with pytest.raises(UserError, match=r"first ones.* are: aaaa, aaaa") as caught:
        read(tmp_path, "files", {"interactions.csv": data, "items.csv": ITEMS}, files=files)
    assert "ISO 8601" in caught.value.mend


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    for path, mend in (("a\0b.csv", "without control characters"), ("x" * 300, "check the path")):
        with pytest.raises(UserError, match="cannot be read") as caught:
            read(tmp_path, "files", {"items.csv": ITEMS}, files={"interactions": {"path": path}})
        assert mend in caught.value.mend
        assert "chmod" not in str(caught.value)
        assert "\0" not in str(caught.value)


def test_the_lazy_table_can_be_narrowed_and_read_again(tmp_path: Path) -> None:
    table = read(tmp_path, "files", {"interactions.csv": EVENTS, "items.csv": ITEMS}).interactions
    assert table.filter(pl.col("user_id") == "u2").select("item_id").collect().rows() == [("b",)]
    assert table.head(1).collect().height == 1
    assert table.select(pl.len()).collect().item() == 2


FILMS = b"10::Am\xe9lie (2001)::Comedy|Romance\n20::Heat (1995)::Crime\n"
RATINGS = b"1::10::5::978300760\r\n2::20::3::978302109\r\n"
RATED = [("1", "10", 978300760, None, 5.0), ("2", "20", 978302109, None, 3.0)]
AMELIE = ("10", "Amélie (2001)", "Comedy, Romance", ["Comedy", "Romance"])
HEAT = ("20", "Heat (1995)", "Crime", ["Crime"])
LAYOUTS = {
    "100K": {
        "u.data": b"1\t10\t5\t978300760\n2\t20\t3\t978302109\n",
        "u.genre": b"Comedy|0\nCrime|1\nRomance|2\n\n",
        "u.item": b"10|Am\xe9lie (2001)|01-Jan-2001||http://x|1|0|1\n20|Heat (1995)|||http://y|0|1|0\n",
    },
    "1M and 10M, '::' between fields": {"ratings.dat": RATINGS, "movies.dat": FILMS},
    "20M, 25M and 32M, csv": {
        "ratings.csv": b"userId,movieId,rating,timestamp\n1,10,5.0,978300760\n2,20,3.0,978302109\n",
        "movies.csv": 'movieId,title,genres\n10,"Amélie (2001)",Comedy|Romance\n20,Heat (1995),Crime\n'.encode(),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_movielens(tmp_path: Path, layout: str) -> None:
    tables = read(tmp_path, "movielens", LAYOUTS[layout])
    assert tables.facts["layout"] == layout
    assert [row[:5] for row in events(tables)] == RATED
    assert items(tables) == [AMELIE, HEAT]


def test_movielens_10m_is_utf8(tmp_path: Path) -> None:
    tables = read(tmp_path, "movielens", {"ratings.dat": RATINGS, "movies.dat": FILMS.decode("latin-1").encode()})
    assert items(tables)[0] == AMELIE


@pytest.mark.parametrize(("plots", "text"), [(True, "Crime. A heist."), (False, "Crime")])
def test_movielens_plots(tmp_path: Path, plots: bool, text: str) -> None:
    extra = "20::Heat::1995::R::date::Crime::director::writer::actor::A heist.::url\r\n"
    files = {"ratings.dat": RATINGS, "movies.dat": FILMS, "movies_extrainfos.dat": extra.encode()}
    tables = read(tmp_path, "movielens", files, plots=plots)
    assert tables.items["text"].to_list() == ["Comedy, Romance", text]


REVIEWS_2014 = b'{"reviewerID": "A1", "asin": "B1", "helpful": [0, 1], "overall": 5.0, "unixReviewTime": 1400000000}\n'
REVIEWS_2018 = REVIEWS_2014.replace(b'"helpful": [0, 1]', b'"verified": true')
META_2014 = b"{'asin': 'B1', 'title': u'It\\'s', 'brand': 'Us', 'categories': [['Beauty', 'Hair'], ['Beauty']]}\n"
META_2018 = b'{"asin": "B1", "title": "It\'s", "brand": "Us", "category": ["Beauty", "Hair"]}\n'
META_2023 = b'{"parent_asin": "B1", "title": "It\'s", "store": "Us", "categories": ["Beauty", "Hair"]}\n'
CSV_2023 = b"user_id,parent_asin,rating,timestamp\nA1,B1,5.0,1400000000123\n"
LINES_2023 = b'{"user_id": "A1", "asin": "B0", "parent_asin": "B1", "rating": 5.0, "timestamp": 1400000000123}\n'


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        (
            "2014",
            {
                "reviews_Beauty_5.json.gz": gzip.compress(REVIEWS_2014),
                "meta_Beauty.json.gz": gzip.compress(META_2014),
            },
        ),
        ("2018", {"All_Beauty_5.json": REVIEWS_2018, "meta_All_Beauty.json": META_2018}),
        ("2023", {"All_Beauty.csv": CSV_2023, "meta_All_Beauty.jsonl": META_2023}),
        ("2023", {"All_Beauty.jsonl": LINES_2023, "meta_All_Beauty.jsonl": META_2023}),
    ],
)
def test_amazon(tmp_path: Path, layout: str, files: dict[str, bytes]) -> None:
    tables = read(tmp_path, "amazon", files)
    assert tables.facts["layout"] == layout
    assert [row[:5] for row in events(tables)] == [("A1", "B1", 1_400_000_000, None, 5.0)]
    assert items(tables) == [("B1", "It's", "Us, Beauty, Hair", ["Beauty", "Hair"])]


def test_amazon_wants_one_category(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"more than one file of reviews: a_5\.json, b_5\.json"):
        read(tmp_path, "amazon", {"a_5.json": REVIEWS_2018, "b_5.json": REVIEWS_2018, "meta_a.json": META_2018})


def test_steam_csv(tmp_path: Path) -> None:
    files = {
        "interactions.csv": EVENTS,
        "items.csv": b"item_id,title\na,War &amp; Peas\nb,Solo\n",
        "item_metadata_dh-r.csv": (
            b"ItemId,Name,Category,Tag,class\n7,War &amp; Peas,Action_Free to Play,Gore_Co-op,1\n"
        ),
    }
    tables = read(tmp_path, "steam", files)
    assert items(tables) == [("a", "War & Peas", "Gore, Co-op", ["Action", "Free to Play"]), ("b", "Solo", "", [])]
    assert tables.facts["items"]["metadata"]["games_found"] == 1


def test_steam_json(tmp_path: Path) -> None:
    files = {
        "steam_reviews.json.gz": gzip.compress(
            b"{u'username': u'Gordon', u'hours': 9.5, u'product_id': u'70', u'date': u'2017-12-17'}"
        ),
        "steam_games.json.gz": gzip.compress(
            b"{u'app_name': u'Half', u'id': u'70', u'genres': [u'Action'], u'tags': [u'FPS', u'Sci-fi']}\n"
        ),
    }
    tables = read(tmp_path, "steam", files)
    assert [row[:5] for row in events(tables)] == [("Gordon", "70", 1_513_468_800, None, 9.5)]
    assert items(tables) == [("70", "Half", "FPS Sci-fi", ["Action"])]


def test_microlens(tmp_path: Path) -> None:
    files = {"x_pairs.tsv": b"1\t30 10\n2\t10\n3\t\n", "x_titles.csv": b'item,title\n10,"A, b"\n30,C\n'}
    tables = read(tmp_path, "microlens", files)
    assert [row[:3] + row[-1:] for row in events(tables)] == [
        ("1", "30", 0, 0), ("1", "10", 1, 0), ("2", "10", 0, 1), ("3", None, 0, 2),
    ]  # fmt: skip
    assert "no times" in tables.facts["interactions"]["time"]["told"]
    assert not times_known(tables.facts)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_an_empty_folder_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match="PRISMREC_DATA_ROOT") as caught:
        read(tmp_path, source, {})
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path, source, {}, folder="nowhere")


REAL = [
    ("movielens", "ml-1m", 999_611, 6_040, 3_416),
    ("movielens", "ml-100k", 100_000, 943, 1_682),
    ("files", "amazon14-beauty", 198_215, 22_332, 12_086),
    ("steam", "steam-100k", 126_824, 10_369, 3_593),
    ("microlens", "microlens-50k", 359_708, 50_000, 19_220),
]


@pytest.mark.parametrize(("source", "folder", "rows", "users", "known"), REAL)
def test_real_data_counts(source: str, folder: str, rows: int, users: int, known: int) -> None:
    root = real_data(folder).parent
    tables = read_source(validation_parameters(source=source, data_root=str(root), folder=folder))
    made = tables.interactions.collect()
    assert (len(made), made["user_id"].n_unique(), made["item_id"].n_unique()) == (rows, users, known)
    assert made["problem"].null_count() == rows
    assert made.select("user_id", "item_id", "timestamp").null_count().sum_horizontal().item() == 0
    assert tables.items["title"].null_count() == 0
    assert not tables.items.select(pl.col("title").str.contains("&amp;").any()).item()
    if folder == "ml-100k":
        assert made["weight"].value_counts().sort("weight")["count"].to_list() == [6110, 11370, 27145, 34174, 21201]
