"""Forgotten users reach no table; purging deletes exactly what still holds them, and never the only copy."""

from pathlib import Path

import polars as pl
import pytest

from data.tables import raw_interactions, raw_items, validation_parameters
from prismrec.data import schema
from prismrec.data.forget import (
    HOLD_EVENTS,
    HOLD_IDS,
    LEFT_OUT,
    count_rows,
    extended,
    forget_in_map,
    holds,
    leave_out,
    leave_out_of_truth,
    purge,
    requested,
)
from prismrec.data.histories import Histories
from prismrec.data.validation import validate_tables
from prismrec.errors import UserError
from prismrec.kedro_datasets import HistoriesDataset, LazyParquetDataset

ROWS = raw_interactions(("ada", "a", 1), ("bob", "a", 2), ("ada", "z", None), (None, "a", 3), (None, "a", 4))
TEXTS = pl.Series([None, None, "ada,z,yesterday", '"ada",a,3', None])
RAW = ROWS.with_columns(TEXTS.alias(schema.AS_GIVEN))


def test_requests_add_up() -> None:
    assert requested(None) == []
    record = extended(extended(None, ["b", "a"]), ["a", "0"])
    assert requested(record) == ["0", "a", "b"]


def test_rows_are_left_out_and_texts_that_are_nobodys_are_hidden() -> None:
    left = leave_out(RAW.lazy(), ["bob", "a.*"]).collect()
    assert left[schema.SOURCE_ROW].to_list() == [0, 2, 3, 4]
    assert left[schema.AS_GIVEN].to_list() == [None, "ada,z,yesterday", LEFT_OUT, None]
    assert left.schema == schema.RAW_INTERACTIONS


@pytest.mark.parametrize("text", [r'{"u": "\u00e9t\u00e9"', '"été"",a,3', "xétéx,a", r"\xe9t\xe9,a,3", "ÉTÉ"])
def test_no_spelling_of_an_id_stays_in_a_text_or_is_overlooked(text: str, workspace: "Workspace") -> None:
    unread = raw_interactions((None, None, None), ("bob", "a", 2)).with_columns(
        pl.Series(schema.AS_GIVEN, [text, None]), pl.Series(schema.PROBLEM, ["stray_quote", None])
    )
    workspace.write(unread, maps=False)
    with pytest.raises(UserError, match="'raw_interactions' still holds a user who is to be forgotten, or a text"):
        purge(workspace.entries, ["été"], "")
    workspace.write(leave_out(unread.lazy(), ["été"]).collect(), maps=False)
    assert {folder.parent.name for folder in purge(workspace.entries, ["été"], "")} == {
        "raw_interactions",
        "quarantine",
    }
    tables = [pl.read_parquet(file) for file in workspace.entries["quarantine"].glob("[!.]*/quarantine")]
    assert [LEFT_OUT in table["row"][0] and text not in table["row"][0] for table in tables] == [True]


def test_rows_are_counted_by_user() -> None:
    assert count_rows(RAW.lazy(), ["ada", "nobody", "bob"]) == {"ada": 2, "bob": 1}


def test_many_users_with_odd_ids_are_forgotten(tmp_path: Path) -> None:
    users = [f"{number} (.*[\\" for number in range(30_000)]
    raw = raw_interactions(*((user, "a", 1) for user in users[:100]), ("bob", "a", 1), (None, "a", 1))
    raw = raw.with_columns(pl.Series(schema.AS_GIVEN, [None] * 101 + [users[0]]))
    assert leave_out(raw.lazy(), users).collect()[schema.USER_ID].to_list() == ["bob", None]
    assert len(count_rows(raw.lazy(), users)) == 100
    raw.write_parquet(tmp_path / "raw")
    assert holds("raw_interactions", tmp_path / "raw", users) == 101
    tables = validate_tables(raw.lazy(), raw_items(("z", "Z", "")), validation_parameters(unknown_items="warn"))
    assert len(tables.interactions.collect()) == 102 - 1
    bad = raw.with_columns(pl.lit(None, pl.Int64).alias(schema.TIMESTAMP))[1:]
    kept = pl.concat([raw[:1], bad])
    parameters = validation_parameters(unknown_items="warn", max_quarantined_share=1)
    validate_tables(kept.lazy(), raw_items(("z", "Z", "")), parameters).quarantine.sink_parquet(tmp_path / "quarantine")
    assert holds("quarantine", tmp_path / "quarantine", users) == 100


def test_the_planted_truth_loses_users_and_no_item_of_that_name() -> None:
    rows = [("user", "ada", "x", 1.0), ("item", "ada", "x", 1.0), ("user", "bob", "x", 1.0)]
    truth = pl.DataFrame(rows, schema=schema.PLANTED_TRUTH, orient="row")
    assert leave_out_of_truth(truth, ["ada"])["id"].to_list() == ["ada", "bob"]


def test_a_map_keeps_indices_and_its_new_name_is_no_users() -> None:
    user_map = pl.DataFrame([(0, "ada", True), (1, "bob", True)], schema=schema.USER_MAP, orient="row")
    forgotten = forget_in_map(user_map, ["ada"])
    assert forgotten.schema == schema.USER_MAP
    assert forgotten[schema.USER_INDEX].to_list() == [0, 1]
    assert forgotten[schema.USER_ID][1] == "bob"
    assert forget_in_map(forgotten, ["ada"]).equals(forgotten)
    # Whoever is called so by a source is quarantined.
    name = forgotten[schema.USER_ID][0]
    tables = validate_tables(
        raw_interactions((name, "a", 1), ("bob", "a", 1)).lazy(),
        raw_items(("a", "A", "")),
        validation_parameters(max_quarantined_share=1),
    )
    assert tables.quarantine.collect()["rules"].to_list() == [["control_in_user_id"]]


class Workspace:
    """A version of every table that names users, or holds their events."""

    def __init__(self, folder: Path) -> None:
        self.entries = {name: folder / name for name in (*HOLD_IDS, *HOLD_EVENTS)}

    def write(self, raw: pl.DataFrame, *, maps: bool = True) -> None:
        parameters = validation_parameters(max_quarantined_share=1)
        tables = validate_tables(raw.lazy(), raw_items(("a", "A", "")), parameters)
        users = tables.interactions.select(schema.USER_ID).unique().collect().with_row_index(schema.USER_INDEX)
        truth = users.select(
            pl.lit("user").alias("kind"), pl.col("user_id").alias("id"), interest=pl.lit("x"), weight=pl.lit(1.0)
        )
        lazy = {
            "raw_interactions": raw.lazy(),
            "validated_interactions": tables.interactions,
            "quarantine": tables.quarantine,
            "planted_truth": truth.lazy(),
            **({"user_map": users.lazy()} if maps else {}),
        }
        for name, table in lazy.items():
            LazyParquetDataset(filepath=str(self.entries[name])).save(table)
        if maps:
            HistoriesDataset(filepath=str(self.entries["histories"])).save(Histories.from_lists([[0]]))

    def versions(self) -> dict[str, int]:
        return {name: len(list(entry.glob("[!.]*"))) for name, entry in self.entries.items() if entry.exists()}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = Workspace(tmp_path)
    versions = iter(f"2000-01-0{day}T00.00.00.000Z" for day in range(1, 9))
    write = made.write

    def in_one_version(raw: pl.DataFrame, *, maps: bool = True) -> None:
        version = next(versions)
        monkeypatch.setattr(LazyParquetDataset, "resolve_save_version", lambda _: version)
        monkeypatch.setattr(HistoriesDataset, "resolve_save_version", lambda _: version)
        write(raw, maps=maps)

    monkeypatch.setattr(made, "write", in_one_version)
    return made


def without(*users: str) -> pl.DataFrame:
    return leave_out(RAW.lazy(), users).collect()


def test_purging_is_refused_while_the_newest_tables_hold_somebody(workspace: Workspace) -> None:
    workspace.write(without("ada"))
    workspace.write(RAW)
    before = workspace.versions()
    with pytest.raises(UserError, match="'raw_interactions' still holds") as error:
        purge(workspace.entries, ["ada"], "kedro run --pipelines data_validation")
    assert "kedro run --pipelines data_validation" in str(error.value)
    assert workspace.versions() == before


def test_every_table_with_ids_is_looked_at(workspace: Workspace) -> None:
    workspace.write(RAW)
    expected = {"raw_interactions": 2}  # a row of theirs, and a text that is nobody's; the latter in the quarantine too
    for name in HOLD_IDS:
        entry = workspace.entries[name]
        (version,) = entry.glob("[!.]*")
        assert holds(name, version / entry.name, ["bob"]) == expected.get(name, 1), name
    (version,) = workspace.entries["quarantine"].glob("[!.]*")
    assert holds("quarantine", version / "quarantine", ["ada"]) == 2  # by its id, and by the text of an unread row


def test_later_stages_have_to_be_written_anew_first(workspace: Workspace) -> None:
    workspace.write(RAW)
    workspace.write(without("ada"), maps=False)
    with pytest.raises(UserError, match="'user_map' still holds"):
        purge(workspace.entries, ["ada"], "")


def test_purging_deletes_what_holds_somebody_and_nothing_else(workspace: Workspace) -> None:
    workspace.write(without("ada"))
    workspace.write(RAW)
    workspace.write(without("ada"))
    removed = purge(workspace.entries, ["ada"], "")
    assert {folder.parent.name for folder in removed} == {*HOLD_IDS, *HOLD_EVENTS}
    assert workspace.versions() == {**dict.fromkeys(HOLD_IDS, 2), "histories": 1}
    assert purge(workspace.entries, ["ada"], "") == []


def test_a_workspace_of_the_first_stage_alone_can_be_purged(workspace: Workspace) -> None:
    workspace.write(RAW, maps=False)
    workspace.write(without("ada"), maps=False)
    assert len(purge(workspace.entries, ["ada"], "")) == 4
