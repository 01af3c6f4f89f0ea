"""Contracts applied: each rule, row accounting, thresholds, privacy of messages."""

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tables import raw_interactions, raw_items, validation_parameters
from prismrec.data import schema
from prismrec.data.pseudonyms import Pseudonyms
from prismrec.data.validation import ValidatedTables, count_rules, show_row, validate_tables
from prismrec.errors import DataRejected

ITEMS = raw_items(("a", "Alpha", "text"), ("b", "Beta", ""))
TOLERANT = {"max_quarantined_share": 1.0, "earliest_timestamp": 10, "latest_timestamp": 1000, "max_id_length": 8}
# Text and numbers as rows of a wide table: user, item, time, kind, weight, problem, as given.
Row = tuple[str | None, str | None, int | None, str | None, float | None, str | None, str | None]


def wide(*rows: Row) -> pl.LazyFrame:
    return pl.DataFrame(
        [(*row[:5], "interactions.csv", number, *row[5:]) for number, row in enumerate(rows)],
        schema=schema.RAW_INTERACTIONS,
        orient="row",
    ).lazy()


def validate(*rows: tuple[str | None, str | None, int | None], **changes: object) -> ValidatedTables:
    return validate_frame(raw_interactions(*rows).lazy(), **changes)


def validate_frame(raw: pl.LazyFrame, **changes: object) -> ValidatedTables:
    return validate_tables(raw, ITEMS, validation_parameters(**{**TOLERANT, **changes}))


def reasons(tables: ValidatedTables) -> dict[int, list[str]]:
    quarantine = tables.quarantine.collect()
    return dict(zip(quarantine[schema.SOURCE_ROW], quarantine["rules"].to_list(), strict=True))


GOOD = ("u", "a", 500)
BROKEN = {
    "missing_user_id": [(None, "a", 500), ("", "a", 500), (" \u3000", "a", 500), ("\u200b\u200f", "a", 500)],
    "missing_item_id": [("u", None, 500), ("u", " ", 500)],
    "long_user_id": [("u" * 9, "a", 500)],
    "control_in_user_id": [("u\x00", "a", 500), ("u\nv", "a", 500), ("u\x85v", "a", 500)],
    "missing_time": [("u", "a", None)],
    "too_early": [("u", "a", 9), ("u", "a", -5), ("u", "a", -(2**63))],
    "too_late": [("u", "a", 1001), ("u", "a", 2**63 - 1)],
    "unknown_item": [("u", "z", 500), ("u", "A", 500), ("u", "a ", 500)],
    "duplicate_row": [GOOD],
}


@pytest.mark.parametrize(("rule", "row"), [(rule, row) for rule, rows in BROKEN.items() for row in rows])
def test_each_rule_finds_its_row_and_no_other(rule: str, row: tuple[str | None, str | None, int | None]) -> None:
    tables = validate(GOOD, row, ("v", "b", 10), ("v", "b", 1000))
    assert reasons(tables) == {1: [rule]}
    assert tables.interactions.collect().rows() == [
        ("u", "a", 500, None, None),
        ("v", "b", 10, None, None),
        ("v", "b", 1000, None, None),
    ]


@pytest.mark.parametrize("user", ["007", "1e3", "👩\u200d👩\u200d👧", "אב\u200f", "a b", "ÿ", " u"])
def test_odd_ids_are_kept_as_given(user: str) -> None:
    assert validate((user, "a", 500)).interactions.collect()[schema.USER_ID].to_list() == [user]


@pytest.mark.parametrize(("weight", "shown"), [(float("nan"), "NaN"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_a_weight_that_is_no_number_is_refused_and_kept_to_the_letter(weight: float, shown: str) -> None:
    tables = validate_frame(
        wide(("u", "a", 500, "view", weight, None, None), ("u", "a", 501, "view", -3.5, None, None))
    )
    assert reasons(tables) == {0: ["weight_not_finite"]}
    assert json.loads(tables.quarantine.collect()["row"][0])["weight"] == shown
    assert tables.interactions.collect().row(0) == ("u", "a", 501, "view", -3.5)


def test_an_unreadable_row_breaks_that_rule_alone_and_keeps_its_text() -> None:
    text = 'u;a;"500'
    tables = validate_frame(wide((None, None, None, None, None, "ragged_row", text), ("u", "a", 500, *[None] * 4)))
    assert reasons(tables) == {0: ["unreadable_row"]}
    row = json.loads(tables.quarantine.collect()["row"][0])
    assert (row["problem"], row["as_given"]) == ("ragged_row", text)


def test_a_row_is_repeated_in_all_its_cells_and_the_first_sound_one_stays() -> None:
    tables = validate_frame(
        wide(
            ("u", "a", 500, "view", float("nan"), None, None),
            ("u", "a", 500, "view", 1.0, None, None),
            ("u", "a", 500, "view", 2.0, None, None),
            ("u", "a", 500, "view", 1.0, None, None),
            ("u", "a", 500, "buy", 1.0, None, None),
            ("u", "a", 500, None, 1.0, None, None),
            ("u", "a", 500, None, 1.0, None, None),
        )
    )
    assert reasons(tables) == {0: ["weight_not_finite"], 3: ["duplicate_row"], 6: ["duplicate_row"]}
    assert tables.interactions.collect()[schema.WEIGHT].to_list() == [1.0, 2.0, 1.0, 1.0]


def test_a_row_may_break_several_rules_and_all_are_listed() -> None:
    tables = validate(GOOD, (None, "z", None))
    quarantine = tables.quarantine.collect()
    assert quarantine["rules"].to_list() == [["missing_user_id", "missing_time", "unknown_item"]]
    assert json.loads(quarantine["row"][0])["item_id"] == "z"
    assert quarantine.schema == schema.QUARANTINE
    assert tables.interactions.collect_schema() == schema.VALIDATED_INTERACTIONS


def test_items_rules() -> None:
    items = raw_items(
        ("a", None, ""),
        ("a", "Alpha", ""),
        ("a", "Again", "x"),
        (None, "Nameless", ""),
        (None, "Too", ""),
        ("b", " \u200b", ""),
        ("c" * 9, "Long id", ""),
        ("d", "T" * 41, ""),
        ("d", "T" * 40, ""),
        ("e\t", "Tab", ""),
    )
    parameters = validation_parameters(**TOLERANT, max_title_length=40)
    tables = validate_tables(raw_interactions(GOOD, ("u", "b", 500)).lazy(), items, parameters)
    # The first *sound* row of an id stays; an item that lost its row is unknown to the interactions.
    assert tables.items[schema.TITLE].to_list() == ["Alpha", "T" * 40]
    quarantine = tables.quarantine.collect()
    rows = quarantine.select("table", schema.SOURCE_ROW, pl.col("rules").list.join("+")).rows()
    assert rows == [
        ("items", 0, "item_without_title"),
        ("items", 2, "duplicate_item"),
        ("items", 3, "missing_item_id"),
        ("items", 4, "missing_item_id"),
        ("items", 5, "item_without_title"),
        ("items", 6, "long_item_id"),
        ("items", 7, "long_title"),
        ("items", 9, "control_in_item_id"),
        ("interactions", 1, "unknown_item"),
    ]


def test_unknown_items_may_be_kept_or_stop_the_run() -> None:
    rows = [GOOD, ("u", "z", 500), *(("u", "a", time) for time in range(10, 200))]
    assert "z" in validate(*rows, unknown_items="warn").interactions.collect()["item_id"]
    with pytest.raises(DataRejected, match="severity 'reject'"):
        validate(*rows, unknown_items="reject")


def test_repeated_rows_may_be_kept_or_stop_the_run() -> None:
    rows = [GOOD, GOOD, GOOD]
    kept = validate(*rows, repeated_rows="warn")
    assert kept.interactions.collect().rows() == [("u", "a", 500, None, None)] * 3
    assert reasons(kept) == {}
    with pytest.raises(DataRejected, match="severity 'reject'"):
        validate(*rows, repeated_rows="reject")


def test_repeated_days_are_pointed_out() -> None:
    day = 86_400
    limits = {"latest_timestamp": 10 * day, "earliest_timestamp": 0, "max_quarantined_share": 0.1}
    rows = [("u", "a", day), ("u", "a", day), ("v", "b", 2 * day)]
    with pytest.raises(DataRejected, match=r"whole days, so that the same row twice may be two.*repeated_rows: warn"):
        validate(*rows, **limits)
    with pytest.raises(DataRejected, match="repeated_rows: warn") as error:
        validate(*rows, ("v", "b", 2 * day + 1), **limits)
    assert "whole days" not in str(error.value)


@pytest.mark.parametrize(("earliest", "says"), [(0, "no way to keep"), (10, "lower data_validation.earliest")])
def test_a_bound_that_cannot_be_lowered_is_no_advice(earliest: int, says: str) -> None:
    with pytest.raises(DataRejected) as error:
        validate(GOOD, ("u", "a", -5), earliest_timestamp=earliest, max_quarantined_share=0)
    assert says in error.value.mend


def test_the_threshold_is_a_share_of_each_table() -> None:
    rows = [("u", "a", 10 + time) for time in range(19)] + [("u", "z", 500)]
    assert len(reasons(validate(*rows, max_quarantined_share=0.05))) == 1
    with pytest.raises(DataRejected) as error:
        validate(*rows, max_quarantined_share=0.049)
    message = str(error.value)
    assert "1 of 20 rows (5.00%)" in message
    assert "1 x unknown_item, such as interactions.csv, row 19: " in message
    assert "'item_id': 'z'" in message
    assert "max_quarantined_share" in message


def test_unknown_ids_that_are_known_ones_written_otherwise_are_pointed_out() -> None:
    items = raw_items(("007", "Bond", ""), ("Ab", "Alpha", ""))
    raw = raw_interactions(("u", "7", 500), ("u", "AB ", 500), ("u", "zz", 500)).lazy()
    with pytest.raises(DataRejected, match="2 of the first 3 unknown ids are listed but for capitals"):
        validate_tables(raw, items, validation_parameters())


def test_messages_hide_user_ids_and_mend_the_worst_rule() -> None:
    with pytest.raises(DataRejected) as error:
        validate(
            ("ada", "a", 5000),
            ("ada", "a", 6000),
            (None, "a", 500),
            max_quarantined_share=0,
        )
    message = str(error.value)
    assert "ada" not in message
    assert message.index("2 x too_late") < message.index("1 x missing_user_id")
    assert "milliseconds" in message


def test_a_table_without_rows_or_without_good_rows_is_refused() -> None:
    with pytest.raises(DataRejected, match="interactions table is empty"):
        validate()
    with pytest.raises(DataRejected, match="items table is empty"):
        validate_tables(raw_interactions(GOOD).lazy(), raw_items(), validation_parameters())
    with pytest.raises(DataRejected, match="no row is left"):
        validate((None, "a", 500))


def test_shown_rows_have_a_pseudonym_and_are_cut() -> None:
    cells = {"user_id": "ada", "item_id": "a", "text": "x" * 500, "categories": ["c"], "weight": None}
    shown = show_row(json.dumps(cells), Pseudonyms())
    assert shown["user_id"] == "user 1"
    assert len(shown["text"]) == 120
    assert shown["categories"] == ["c"]
    assert "weight" not in shown


@pytest.mark.parametrize(
    ("user", "given", "shown"),
    [
        ("7", "7,17,yesterday", "{user},17,yesterday"),
        (None, "7,17", None),  # nobody knows who that is
        ("é", r"{\"u\": \"\u00e9\"}", None),  # written otherwise
        ("ada", "ada;ada.b;xadax", "{user};{user}.b;xadax"),
    ],
)
def test_a_rows_text_is_shown_only_without_its_user(user: str | None, given: str, shown: str | None) -> None:
    row = show_row(json.dumps({"user_id": user, "as_given": given}), Pseudonyms())
    assert row.get("as_given") == (shown and shown.format(user="user 1"))


odd = st.text(st.sampled_from("uv a0\x00\u200b\u3000\x85é\n"), max_size=9)
cells = st.tuples(
    st.one_of(st.none(), st.sampled_from(["u", "v"]), odd),
    st.one_of(st.none(), st.sampled_from(["a", "b", "z"]), odd),
    st.one_of(st.none(), st.sampled_from([-1, 9, 10, 500, 1000, 1001])),
    st.sampled_from([None, "view", ""]),
    st.sampled_from([None, 1.0, float("nan"), float("inf")]),
    st.sampled_from([None, None, None, "ragged_row"]),
    st.sampled_from([None, "text \x00 as \u200b given"]),
)


@settings(deadline=None)
@given(st.lists(cells, max_size=30))
def test_no_row_vanishes_and_every_refusal_has_a_reason(rows: list[Row]) -> None:
    raw = wide(("u", "a", 500, *[None] * 4), *rows)
    tables = validate_frame(raw)
    kept, refused = tables.interactions.collect(), reasons(tables)
    assert len(kept) + len(refused) == len(rows) + 1
    assert all(refused.values())
    assert sum(count_rules(tables.quarantine).values()) == sum(map(len, refused.values()))
    # What stays are the other rows, as they were and in their order.
    others = raw.collect().filter(~pl.col(schema.SOURCE_ROW).is_in(list(refused)))
    assert kept.equals(others.select(list(schema.VALIDATED_INTERACTIONS)))
    # What is refused can be read again from the quarantine.
    for text, row in zip(tables.quarantine.collect()["row"], refused, strict=True):
        cells: dict[str, Any] = json.loads(text)
        assert cells["user_id"] == ([("u",), *rows][row][0])
    # What is kept breaks nothing: validating it again refuses nothing.
    again = kept.rows()
    assert reasons(validate_frame(wide(*((*row, None, None) for row in again)))) == {}
