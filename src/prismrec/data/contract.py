"""The data contract: one typed contract a table, from which everything that checks data is made.

A rule names what may be wrong with a row, says it in a sentence for people, finds it with one polars expression (this
makes the quarantine), and says it once more as Great Expectations' expectations (these check the validated tables
independently, see `prismrec.data.expectations`). A watch looks at a table as a whole and only warns.

Severities: `quarantine` takes the row out; `warn` only counts it; `reject` stops the run at the first such row. Our
choices:
- plausible times are bounded by parameters, never by the clock, so that the same rows always get the same verdict;
- a row that the reader could not read breaks that rule alone, for its cells say nothing;
- a row is repeated where user, item, time, kind and weight are all the same. Of such rows the first that breaks no
  other rule stays; or all, by parameter, for in logs of days the same row twice may be two events;
- an event is "of an unknown item" if its item is not in the *validated* items table;
- control characters in an id are refused, invisible ones (zero-width joiners in emoji, marks of direction) belong to
  it, unless there is nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from prismrec.data import schema
from prismrec.data.watches import INTERACTION_WATCHES, ITEM_WATCHES, Watch, day_of
from prismrec.parameters.data_validation import DataValidationParameters, Severity

INTERACTIONS = "interactions"
ITEMS = "items"
KNOWN_ITEM = "item_is_known"
FINITE_WEIGHT = "weight_is_finite"
EVENT = tuple(schema.VALIDATED_INTERACTIONS)  # what makes an event: all that is kept of it
UNREADABLE = "unreadable_row"
REPEATED_ROW = "duplicate_row"
# True for a row that repeats an earlier sound one; whoever applies the rules adds this column.
REPEATED = "__repeated"

# White space and characters that nobody sees, spelt out since regex engines disagree about \s.
_UNSEEN = "\\x09-\\x0d\\x1c-\\x20\x85\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
NOT_BLANK = f"[^{_UNSEEN}]"
CONTROL = "[\\x00-\\x1f\\x7f\x80-\x9f]"

MEANINGS = {
    schema.USER_ID: "who, as the source gave it",
    schema.ITEM_ID: "what, as the source gave it",
    schema.TIMESTAMP: "when, seconds since 1970-01-01 UTC",
    schema.EVENT: "kind of event (view, purchase); null where the source has none",
    schema.WEIGHT: "a number (stars, seconds watched); null where the source has none",
    schema.TITLE: "name of the item",
    schema.TEXT: "description beyond the title",
    schema.CATEGORIES: "categories the item belongs to",
    schema.SOURCE_FILE: "file the row was read from",
    schema.SOURCE_ROW: "row of that file, from 0, the header not counted",
    schema.PROBLEM: "why the row could not be read; null if it could",
    schema.AS_GIVEN: "the row's text, where something in it could not be read",
}


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
        broken: true where a row breaks the rule, over the raw table's columns and `REPEATED`.
        expectations: the same demand on the validated table; none where the validated table lacks the column.
    """

    name: str
    severity: Severity
    sentence: str
    mend: str
    broken: pl.Expr
    expectations: tuple[Expectation, ...]

    @property
    def about_repeats(self) -> bool:
        """Whether the rule asks for `REPEATED`."""
        return REPEATED in self.broken.meta.root_names()


@dataclass(frozen=True)
class Contract:
    """What a table must be.

    Attributes:
        table: the table's name.
        raw: columns and types before validation.
        validated: columns and types after it.
        rules: in the order in which reasons are listed; the last is that of repeated rows.
        unique: the columns in which repeated rows agree.
        watches: what is looked at over the whole table.
        checked: the columns that expectations see, each an expression over the validated table.
    """

    table: str
    raw: pl.Schema
    validated: pl.Schema
    rules: tuple[Rule, ...]
    unique: tuple[str, ...]
    watches: tuple[Watch, ...]
    checked: Mapping[str, pl.Expr]


def items_contract(parameters: DataValidationParameters) -> Contract:
    """The contract of the items table: an id, once, and a title of sane length."""
    title, longest = pl.col(schema.TITLE), parameters.max_title_length
    rules = (
        _unreadable(),
        *_id_rules(schema.ITEM_ID, parameters),
        Rule(
            "item_without_title",
            "quarantine",
            "The item has no title.",
            "give every item a title in the items file",
            _blank(schema.TITLE),
            (_not_null(schema.TITLE), _not_blank(schema.TITLE)),
        ),
        Rule(
            "long_title",
            "quarantine",
            f"The title has more than {longest:,} characters; mostly a quote that is never closed.",
            "close the quote, or raise data_validation.max_title_length",
            title.str.len_chars() > longest,
            (_no_longer_than(schema.TITLE, longest),),
        ),
        Rule(
            "item_without_text",
            "warn",
            "The item has no text beyond its title.",
            "nothing has to be done: the title alone is then the item's text",
            _blank(schema.TEXT),
            (_not_blank(schema.TEXT),),
        ),
        Rule(
            "duplicate_item",
            "quarantine",
            "An earlier sound row already describes this item.",
            "list every item once in the items file",
            pl.col(REPEATED),
            (Expectation("ExpectColumnValuesToBeUnique", {"column": schema.ITEM_ID}),),
        ),
    )
    checked = {name: pl.col(name) for name in (schema.ITEM_ID, schema.TITLE, schema.TEXT)}
    return Contract(ITEMS, schema.RAW_ITEMS, schema.VALIDATED_ITEMS, rules, (schema.ITEM_ID,), ITEM_WATCHES, checked)


def interactions_contract(parameters: DataValidationParameters, known_items: pl.Series) -> Contract:
    """The contract of the interactions table.

    Args:
        parameters: bounds of times and ids, and what happens to events of unknown items and to repeated rows.
        known_items: item ids of the validated items table.
    """
    # An enumeration looks a million ids up once; `is_in` would do so for every piece of the stream.
    known = pl.col(schema.ITEM_ID).cast(pl.Enum(known_items), strict=False).is_not_null()
    finite = pl.col(schema.WEIGHT).is_finite().fill_null(True)
    rules = (
        _unreadable(),
        *_id_rules(schema.USER_ID, parameters),
        *_id_rules(schema.ITEM_ID, parameters),
        *_time_rules(parameters),
        Rule(
            "weight_not_finite",
            "quarantine",
            "The weight is no number (NaN) or infinite.",
            "leave cells of unknown weights empty",
            ~finite,
            (_all_true(FINITE_WEIGHT),),
        ),
        Rule(
            "unknown_item",
            parameters.unknown_items,
            "The items table does not list the item (or lists it without a title).",
            "add the items to the items file, or keep their events: data_validation.unknown_items: warn",
            ~_blank(schema.ITEM_ID) & ~known,
            (_all_true(KNOWN_ITEM),),
        ),
        Rule(
            REPEATED_ROW,
            parameters.repeated_rows,
            "An earlier sound row has the same user, item, time, kind of event and weight.",
            "export every event once, or keep such rows: data_validation.repeated_rows: warn",
            pl.col(REPEATED),
            (Expectation("ExpectCompoundColumnsToBeUnique", {"column_list": list(EVENT)}),),
        ),
    )
    checked = {**{name: pl.col(name) for name in EVENT}, KNOWN_ITEM: known, FINITE_WEIGHT: finite}
    return Contract(
        INTERACTIONS,
        schema.RAW_INTERACTIONS,
        schema.VALIDATED_INTERACTIONS,
        rules,
        EVENT,
        INTERACTION_WATCHES,
        checked,
    )


def _unreadable() -> Rule:
    return Rule(
        UNREADABLE,
        "quarantine",
        "The row could not be read; 'problem' says why, 'as_given' holds its text.",
        "look at such rows in the file: the delimiter, quotes and the encoding are what mostly is wrong",
        pl.col(schema.PROBLEM).is_not_null(),
        (),
    )


def _id_rules(column: str, parameters: DataValidationParameters) -> tuple[Rule, ...]:
    text, longest = pl.col(column), parameters.max_id_length
    return (
        Rule(
            f"missing_{column}",
            "quarantine",
            f"The {column} is missing, or nothing in it can be seen.",
            f"fill in the {column} of every row",
            _blank(column),
            (_not_null(column), _not_blank(column)),
        ),
        Rule(
            f"long_{column}",
            "quarantine",
            f"The {column} has more than {longest:,} characters.",
            "check the columns' mapping and quotes, or raise data_validation.max_id_length",
            text.str.len_chars() > longest,
            (_no_longer_than(column, longest),),
        ),
        Rule(
            f"control_in_{column}",
            "quarantine",
            f"The {column} holds a control character (NUL, a line break, a tab).",
            "export the ids without them; NUL bytes mostly mean another encoding (UTF-16) or a damaged file",
            ~_blank(column) & text.str.contains(CONTROL),
            (Expectation("ExpectColumnValuesToNotMatchRegex", {"column": column, "regex": CONTROL}),),
        ),
    )


def _time_rules(parameters: DataValidationParameters) -> tuple[Rule, ...]:
    time = pl.col(schema.TIMESTAMP)
    earliest, latest = parameters.earliest_timestamp, parameters.latest_timestamp
    lower = ", or lower data_validation.earliest_timestamp" if earliest else "; there is no way to keep such times"
    return (
        Rule(
            "missing_time",
            "quarantine",
            "The time is missing or could not be read.",
            "give every row a time: a number since 1970-01-01 UTC, or ISO 8601",
            time.is_null(),
            (_not_null(schema.TIMESTAMP),),
        ),
        Rule(
            "too_early",
            "quarantine",
            f"The time is before {day_of(earliest)} (second {earliest} since 1970), the earliest plausible one.",
            f"check the unit of the times{lower}",
            time < earliest,
            (Expectation("ExpectColumnValuesToBeBetween", {"column": schema.TIMESTAMP, "min_value": earliest}),),
        ),
        Rule(
            "too_late",
            "quarantine",
            f"The time is after {day_of(latest)} (second {latest} since 1970), the latest plausible one.",
            "check the unit (milliseconds?), or raise data_validation.latest_timestamp",
            time > latest,
            (Expectation("ExpectColumnValuesToBeBetween", {"column": schema.TIMESTAMP, "max_value": latest}),),
        ),
    )


def _blank(column: str) -> pl.Expr:
    return ~pl.col(column).str.contains(NOT_BLANK).fill_null(False)


def _not_null(column: str) -> Expectation:
    return Expectation("ExpectColumnValuesToNotBeNull", {"column": column})


def _not_blank(column: str) -> Expectation:
    return Expectation("ExpectColumnValuesToMatchRegex", {"column": column, "regex": NOT_BLANK})


def _no_longer_than(column: str, longest: int) -> Expectation:
    return Expectation("ExpectColumnValueLengthsToBeBetween", {"column": column, "max_value": longest})


def _all_true(column: str) -> Expectation:
    return Expectation("ExpectColumnValuesToBeInSet", {"column": column, "value_set": [True]})
