"""Contracts applied: each rule, row accounting, thresholds, privacy of messages."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tables import raw_interactions, raw_items, validation_parameters
from prismrec.data import schema
from prismrec.data.validation import ValidatedTables, count_rules, show_row, validate_tables
from prismrec.errors import DataRejected

ITEMS = raw_items(("a", "Alpha", "text"), ("b", "Beta", ""))
TOLERANT = {"max_quarantined_share": 1.0, "earliest_timestamp": 10, "latest_timestamp": 1000}


def validate(*rows: tuple[str | None, str | None, int | None], **changes: object) -> ValidatedTables:
    return validate_tables(raw_interactions(*rows), ITEMS, validation_parameters(**{**TOLERANT, **changes}))


GOOD = ("u", "a", 500)
BROKEN = {
    "missing_user_id": [(None, "a", 500), ("", "a", 500), ("  ", "a", 500)],
    "missing_item_id": [("u", None, 500), ("u", " ", 500)],
    "missing_time": [("u", "a", None)],
    "too_early": [("u", "a", 9), ("u", "a", -5)],
    "too_late": [("u", "a", 1001)],
    "unknown_item": [("u", "z", 500)],
    "duplicate_row": [GOOD],
}


@pytest.mark.parametrize(("rule", "row"), [(rule, row) for rule, rows in BROKEN.items() for row in rows])
def test_each_rule_finds_its_row_and_no_other(rule: str, row: tuple[str | None, str | None, int | None]) -> None:
    tables = validate(GOOD, row, ("v", "b", 10), ("v", "b", 1000))
    assert tables.quarantine["rules"].to_list() == [[rule]]
    assert tables.quarantine[schema.SOURCE_ROW].to_list() == [1]
    assert tables.interactions[schema.SOURCE_ROW].to_list() == [0, 2, 3]


def test_a_row_may_break_several_rules_and_all_are_listed() -> None:
    tables = validate(GOOD, (None, "z", None))
    assert tables.quarantine["rules"].to_list() == [["missing_user_id", "missing_time", "unknown_item"]]
    assert json.loads(tables.quarantine["row"][0]) == {"user_id": None, "item_id": "z", "timestamp": None}
    assert tables.quarantine.schema == schema.QUARANTINE


def test_items_rules() -> None:
    items = raw_items(
        ("a", None, ""),
        ("a", "Alpha", ""),
        ("a", "Again", "x"),
        (None, "Nameless", ""),
        (None, "Too", ""),
        ("b", " ", ""),
    )
    parameters = validation_parameters(**TOLERANT)
    tables = validate_tables(raw_interactions(GOOD, ("u", "b", 500)), items, parameters)
    # The first *titled* row of an id stays; an item that lost its row is unknown to the interactions.
    assert tables.items[schema.TITLE].to_list() == ["Alpha"]
    assert dict(zip(tables.quarantine[schema.SOURCE_ROW], tables.quarantine["rules"].to_list(), strict=True)) == {
        0: ["item_without_title"],
        2: ["duplicate_item"],
        3: ["missing_item_id"],
        4: ["missing_item_id"],
        5: ["item_without_title"],
        1: ["unknown_item"],
    }


def test_unknown_items_may_be_kept_or_stop_the_run() -> None:
    rows = [GOOD, ("u", "z", 500), *(("u", "a", time) for time in range(10, 200))]
    assert "z" in validate(*rows, unknown_items="warn").interactions["item_id"]
    with pytest.raises(DataRejected, match="severity 'reject'"):
        validate(*rows, unknown_items="reject")


def test_the_threshold_is_a_share_of_each_table() -> None:
    rows = [("u", "a", 10 + time) for time in range(19)] + [("u", "z", 500)]
    assert len(validate(*rows, max_quarantined_share=0.05).quarantine) == 1
    with pytest.raises(DataRejected) as error:
        validate(*rows, max_quarantined_share=0.049)
    message = str(error.value)
    assert "1 of 20 rows (5.00%)" in message
    assert "1 x unknown_item, such as interactions.csv, row 19: " in message
    assert "'item_id': 'z'" in message
    assert "max_quarantined_share" in message


def test_messages_hide_user_ids_and_mend_the_worst_rule() -> None:
    with pytest.raises(DataRejected) as error:
        validate(
            ("ada@example.org", "a", 5000),
            ("ada@example.org", "a", 6000),
            (None, "a", 500),
            max_quarantined_share=0,
        )
    message = str(error.value)
    assert "ada" not in message
    assert message.index("2 x too_late") < message.index("1 x missing_user_id")
    assert "milliseconds" in message


def test_a_table_without_rows_or_without_good_rows_is_refused() -> None:
    with pytest.raises(DataRejected, match="empty"):
        validate()
    with pytest.raises(DataRejected, match="no row is left"):
        validate((None, "a", 500))


def test_shown_rows_are_hashed_and_cut() -> None:
    shown = show_row(json.dumps({"user_id": "ada", "item_id": "a", "text": "x" * 500, "categories": ["c"]}))
    assert shown["user_id"].startswith("user ")
    assert "ada" not in shown["user_id"]
    assert len(shown["text"]) == 120
    assert shown["categories"] == ["c"]


cells = st.tuples(
    st.sampled_from([None, "", "u", "v"]),
    st.sampled_from([None, "a", "b", "z"]),
    st.one_of(st.none(), st.sampled_from([-1, 9, 10, 500, 1000, 1001])),
)


@given(st.lists(cells, max_size=30))
def test_no_row_vanishes_and_every_refusal_has_a_reason(
    rows: list[tuple[str | None, str | None, int | None]],
) -> None:
    tables = validate(GOOD, *rows)
    refused, kept = (
        tables.quarantine[schema.SOURCE_ROW].to_list(),
        tables.interactions[schema.SOURCE_ROW].to_list(),
    )
    assert sorted(refused + kept) == list(range(len(rows) + 1))
    assert (tables.quarantine["rules"].list.len() > 0).all()
    assert sum(count_rules(tables.quarantine).values()) == tables.quarantine["rules"].list.len().sum()
    # What is kept breaks nothing: validating it again refuses nothing.
    again = tables.interactions.with_columns(pl.lit("again").alias(schema.SOURCE_FILE)).select(
        list(schema.RAW_INTERACTIONS)
    )
    assert validate_tables(again, ITEMS, validation_parameters(**TOLERANT)).quarantine.is_empty()
