"""The data contract: one typed contract a table, from which everything that checks data is made.

A rule names what may be wrong with a row, says it in a sentence for people, finds it with one polars
expression (this makes the quarantine), and says it once more as Great Expectations' expectations (these
check the validated tables independently, see `prismrec.data.expectations`).

Severities: `quarantine` takes the row out; `warn` only counts it; `reject` stops the run at the first
such row. Our choices: plausible times are bounded by parameters, never by the clock, so that the same
rows always get the same verdict; of rows that are the same, the first in the file stays; an event is
"of an unknown item" if its item is not in the *validated* items table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from prismrec.data import schema
from prismrec.parameters.data_validation import DataValidationParameters, Severity

INTERACTIONS = "interactions"
ITEMS = "items"
KNOWN_ITEM = "item_is_known"
EVENT = (schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP)


@dataclass(frozen=True)
class Expectation:
    """One of Great Expectations' expectations: the class's name and its arguments."""

    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """What a row may break.

    Attributes:
        name: short name that the quarantine and the reports give as the reason.
        severity: what happens to the row.
        sentence: what is wrong, for people.
        mend: what to do when many rows break it.
        broken: true where a row breaks the rule, over the raw table's columns.
        expectations: the same demand on the validated table.
    """

    name: str
    severity: Severity
    sentence: str
    mend: str
    broken: pl.Expr
    expectations: tuple[Expectation, ...]


@dataclass(frozen=True)
class Contract:
    """What a table must be.

    Attributes:
        table: the table's name.
        raw: columns and types before validation.
        validated: columns and types after it.
        rules: in the order in which reasons are listed.
        checked: the columns that expectations see, each an expression over the validated table.
    """

    table: str
    raw: pl.Schema
    validated: pl.Schema
    rules: tuple[Rule, ...]
    checked: Mapping[str, pl.Expr] = field(default_factory=dict)


def items_contract() -> Contract:
    """The contract of the items table: an id, once, and a title."""
    titled = ~_blank(schema.TITLE)
    # Of several rows of one id the first *with a title* counts: an untitled one is out anyway.
    nth_titled_row = titled.cast(pl.Int32).cum_sum().over(schema.ITEM_ID)
    rules = (
        _missing_id(schema.ITEM_ID),
        Rule(
            "item_without_title",
            "quarantine",
            "The item has no title.",
            "give every item a title in the items file",
            ~titled,
            (_not_null(schema.TITLE), _not_blank(schema.TITLE)),
        ),
        Rule(
            "duplicate_item",
            "quarantine",
            "An earlier titled row already describes this item.",
            "list every item once in the items file",
            ~_blank(schema.ITEM_ID) & titled & (nth_titled_row > 1),
            (Expectation("ExpectColumnValuesToBeUnique", {"column": schema.ITEM_ID}),),
        ),
        Rule(
            "item_without_text",
            "warn",
            "The item has no text beyond its title.",
            "nothing has to be done: the title alone is then the item's text",
            _blank(schema.TEXT),
            (_not_blank(schema.TEXT),),
        ),
    )
    checked = {name: pl.col(name) for name in (schema.ITEM_ID, schema.TITLE, schema.TEXT)}
    return Contract(ITEMS, schema.RAW_ITEMS, schema.VALIDATED_ITEMS, rules, checked)


def interactions_contract(parameters: DataValidationParameters, known_items: pl.Series) -> Contract:
    """The contract of the interactions table.

    Args:
        parameters: bounds of time, and what happens to events of unknown items.
        known_items: item ids of the validated items table.
    """
    known = pl.col(schema.ITEM_ID).is_in(known_items.implode())
    rules = (
        _missing_id(schema.USER_ID),
        _missing_id(schema.ITEM_ID),
        *_time_rules(parameters),
        Rule(
            "unknown_item",
            parameters.unknown_items,
            "The items table does not list the item (or lists it without a title).",
            "add the items to the items file, or keep their events: data_validation.unknown_items: warn",
            ~_blank(schema.ITEM_ID) & ~known,
            (Expectation("ExpectColumnValuesToBeInSet", {"column": KNOWN_ITEM, "value_set": [True]}),),
        ),
        Rule(
            "duplicate_row",
            "quarantine",
            "An earlier row has the same user, item and time.",
            "export every event once",
            ~pl.struct(EVENT).is_first_distinct(),
            (Expectation("ExpectCompoundColumnsToBeUnique", {"column_list": list(EVENT)}),),
        ),
    )
    checked = {**{name: pl.col(name) for name in EVENT}, KNOWN_ITEM: known}
    return Contract(INTERACTIONS, schema.RAW_INTERACTIONS, schema.VALIDATED_INTERACTIONS, rules, checked)


def _time_rules(parameters: DataValidationParameters) -> tuple[Rule, ...]:
    time = pl.col(schema.TIMESTAMP)
    earliest, latest = parameters.earliest_timestamp, parameters.latest_timestamp
    return (
        Rule(
            "missing_time",
            "quarantine",
            "The time is missing or is no number of seconds.",
            "write times as whole seconds since 1970-01-01 UTC",
            time.is_null(),
            (_not_null(schema.TIMESTAMP),),
        ),
        Rule(
            "too_early",
            "quarantine",
            f"The time is before second {earliest} since 1970, the earliest plausible one.",
            "check the unit of the times, or lower data_validation.earliest_timestamp",
            time < earliest,
            (Expectation("ExpectColumnValuesToBeBetween", {"column": schema.TIMESTAMP, "min_value": earliest}),),
        ),
        Rule(
            "too_late",
            "quarantine",
            f"The time is after second {latest} since 1970, the latest plausible one.",
            "check the unit (milliseconds?), or raise data_validation.latest_timestamp",
            time > latest,
            (Expectation("ExpectColumnValuesToBeBetween", {"column": schema.TIMESTAMP, "max_value": latest}),),
        ),
    )


def _missing_id(column: str) -> Rule:
    return Rule(
        f"missing_{column}",
        "quarantine",
        f"The {column} is missing.",
        f"give every row a {column}",
        _blank(column),
        (_not_null(column), _not_blank(column)),
    )


def _blank(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def _not_null(column: str) -> Expectation:
    return Expectation("ExpectColumnValuesToNotBeNull", {"column": column})


def _not_blank(column: str) -> Expectation:
    return Expectation("ExpectColumnValuesToMatchRegex", {"column": column, "regex": r"\S"})
