"""Apply the contracts, as a stream: rows in = rows validated + rows quarantined, each with its reasons.

The items table goes first, since the interactions' contract asks which items are known. A table that loses more than
`max_quarantined_share` of its rows, or all of them, or breaks a `reject` rule, stops the run with a message that holds
the report in short. What comes out is lazy: it is computed while it is written, in the order of the raw table.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from prismrec.data import schema
from prismrec.data.contract import (
    REPEATED,
    REPEATED_ROW,
    UNREADABLE,
    Contract,
    Rule,
    interactions_contract,
    items_contract,
)
from prismrec.data.profile import DAY, looks_of
from prismrec.data.pseudonyms import Pseudonyms
from prismrec.data.repeats import ROW, among, repeated_rows
from prismrec.errors import DataRejected
from prismrec.parameters.data_validation import DataValidationParameters

RULES_IN_MESSAGE = 3
LONGEST_CELL = 120  # characters shown of a cell
UNKNOWN_LOOKED_AT = 1000  # unknown ids compared with the known ones for a message
_LOCATED = (schema.SOURCE_FILE, schema.SOURCE_ROW)


class ValidatedTables(NamedTuple):
    """Validated tables and the quarantine (see `prismrec.data.schema`)."""

    interactions: pl.LazyFrame
    items: pl.DataFrame
    quarantine: pl.LazyFrame


class Marked(NamedTuple):
    """A raw table, and per rule the expression that is true where a row breaks it."""

    contract: Contract
    table: pl.LazyFrame
    broken: Mapping[str, pl.Expr]

    @property
    def bad(self) -> pl.Expr:
        """Whether a row breaks any rule."""
        return pl.any_horizontal(self.broken.values())


def validate_tables(
    raw_interactions: pl.LazyFrame, raw_items: pl.DataFrame, parameters: DataValidationParameters
) -> ValidatedTables:
    """Split both raw tables by their contracts.

    Raises:
        DataRejected: a table breaks its contract beyond the threshold, or no row of it is left.
    """
    items = mark(raw_items.lazy(), items_contract(parameters))
    _refuse_beyond_threshold(items, parameters)
    validated_items = _validated(items).collect()
    known = validated_items.get_column(schema.ITEM_ID)
    interactions = mark(raw_interactions, interactions_contract(parameters, known))
    _refuse_beyond_threshold(interactions, parameters, known)
    quarantine = pl.concat([_quarantined(items), _quarantined(interactions)])
    return ValidatedTables(_validated(interactions), validated_items, quarantine)


def mark(raw: pl.LazyFrame, contract: Contract) -> Marked:
    """Say of each rule that takes rows out which rows break it."""
    assert raw.collect_schema() == contract.raw, f"a source must return {contract.table} as its schema says"
    taken_out = [rule for rule in contract.rules if rule.severity != "warn"]
    readable = pl.col(schema.PROBLEM).is_null()
    broken = {
        rule.name: rule.broken if rule.name == UNREADABLE else readable & rule.broken.fill_null(False)
        for rule in taken_out
        if not rule.about_repeats
    }
    repeats = {rule.name: rule.broken for rule in taken_out if rule.about_repeats}
    if not repeats:
        return Marked(contract, raw, broken)
    numbered = _numbered(raw)
    again = repeated_rows(numbered.filter(~pl.any_horizontal(broken.values())), contract.unique)
    return Marked(contract, numbered.with_columns(among(pl.col(ROW), again).alias(REPEATED)), {**broken, **repeats})


def _numbered(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64))


def count_broken(validated: pl.LazyFrame, contract: Contract, rules: list[Rule]) -> dict[str, int]:
    """How many rows of a *validated* table break each of these rules, which need no column that it lacks."""
    table = validated
    if any(rule.about_repeats for rule in rules):
        table = _numbered(validated)
        table = table.with_columns(among(pl.col(ROW), repeated_rows(table, contract.unique)).alias(REPEATED))
    counts = table.select(rule.broken.fill_null(False).sum().alias(rule.name) for rule in rules)
    return {name: int(count) for name, count in counts.collect(engine="streaming").row(0, named=True).items()}


def _validated(marked: Marked) -> pl.LazyFrame:
    return schema.conform(marked.table.filter(~marked.bad), marked.contract.validated)


def _quarantined(marked: Marked) -> pl.LazyFrame:
    """The rows that break a rule, as the quarantine holds them."""
    contract = marked.contract
    reject = [rule.name for rule in contract.rules if rule.severity == "reject"]
    reasons = pl.concat_list(pl.when(broken).then(pl.lit(name)) for name, broken in marked.broken.items())
    cells = [_cell(name) for name in contract.raw.names() if name not in _LOCATED]
    explained = marked.table.filter(marked.bad).select(
        pl.lit(contract.table).alias("table"),
        *_LOCATED,
        reasons.list.drop_nulls().alias("rules"),
        pl.struct(cells).struct.json_encode().alias("row"),
    )
    rejects = pl.col("rules").list.eval(pl.element().is_in(reject)).list.any()
    severity = pl.when(rejects).then(pl.lit("reject")).otherwise(pl.lit("quarantine"))
    return schema.conform(explained.with_columns(severity.alias("severity")), schema.QUARANTINE)


def _cell(name: str) -> pl.Expr:
    """A cell as JSON can hold it, which has no NaN."""
    return pl.col(name).cast(pl.String) if name == schema.WEIGHT else pl.col(name)


def count_rules(quarantine: pl.LazyFrame) -> dict[str, int]:
    """Rows that break each rule, most frequent first, then by name; a row may break several."""
    counts = quarantine.select(pl.col("rules").explode()).group_by("rules").len().collect(engine="streaming")
    return dict(counts.sort(["len", "rules"], descending=[True, False]).iter_rows())


def show_row(row: str, pseudonyms: Pseudonyms) -> dict[str, Any]:
    """A quarantined row as a report may show it: the user by a pseudonym, long cells cut, empty extras left out.

    The text of a row is shown only if its user is known, with the pseudonym too: else nobody can tell who it names.
    """
    cells: dict[str, Any] = json.loads(row)
    of_users, user, given = schema.USER_ID in cells, cells.get(schema.USER_ID), cells.get(schema.AS_GIVEN)
    if user is not None:
        cells[schema.USER_ID] = pseudonyms(user)
    if of_users and given is not None:
        cells[schema.AS_GIVEN] = _hidden(given, user, pseudonyms(user)) if user else None
    extras = (schema.EVENT, schema.WEIGHT, schema.PROBLEM, schema.AS_GIVEN)
    shown = {name: cell for name, cell in cells.items() if cell is not None or name not in extras}
    return {name: _cut(cell) if isinstance(cell, str) else cell for name, cell in shown.items()}


def _hidden(text: str, user: str, pseudonym: str) -> str | None:
    """A row's text with the user's pseudonym; None where the text does not show the id as it is."""
    hidden, found = re.subn(rf"(?<!\w){re.escape(user)}(?!\w)", pseudonym, text)
    return hidden if found else None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _refuse_beyond_threshold(
    marked: Marked, parameters: DataValidationParameters, known_items: pl.Series | None = None
) -> None:
    """Raise if the table must not be used."""
    table = marked.contract.table
    flags = marked.table.select(broken.alias(name) for name, broken in marked.broken.items())
    counted = flags.select(
        pl.len().alias("rows"), pl.any_horizontal(pl.all()).sum().alias("bad"), pl.struct(pl.all().sum()).alias("rules")
    )
    rows, bad, counts = counted.collect(engine="streaming").row(0)
    if rows == 0:
        raise DataRejected(f"The {table} table is empty.", mend="check what the source reads")
    if any(counts.get(rule.name) for rule in marked.contract.rules if rule.severity == "reject"):
        why = "a rule of severity 'reject' is broken"
    elif bad / rows > parameters.max_quarantined_share:
        why = f"at most {parameters.max_quarantined_share:.2%} may"
    elif bad == rows:
        why = "no row is left"
    else:
        return
    worst = sorted((name for name in counts if counts[name]), key=lambda name: (-counts[name], name))
    mends = {rule.name: rule.mend for rule in marked.contract.rules}
    pseudonyms = Pseudonyms()
    raise DataRejected(
        f"The {table} table is refused: {bad:,} of {rows:,} rows ({bad / rows:.2%}) break"
        f" the data contract, and {why}.",
        "".join(
            f"\n    {counts[n]:,} x {n}, such as {_example(marked, n, pseudonyms)}" for n in worst[:RULES_IN_MESSAGE]
        ),
        f"{_hint(marked, worst[0], known_items)}{mends[worst[0]]}; or accept such rows with "
        "data_validation.max_quarantined_share",
    )


def _example(marked: Marked, rule: str, pseudonyms: Pseudonyms) -> str:
    """The first row that breaks the rule, and where it stands."""
    first = marked._replace(table=marked.table.filter(marked.broken[rule]).head(1))
    row = _quarantined(first).collect(engine="streaming").row(0, named=True)
    return f"{row[schema.SOURCE_FILE]}, row {row[schema.SOURCE_ROW]}: {show_row(row['row'], pseudonyms)}"


def _hint(marked: Marked, rule: str, known_items: pl.Series | None) -> str:
    """What is usually the reason where many rows break the rule, if it is so here."""
    if rule == "unknown_item" and known_items is not None:
        return _alike_hint(marked, known_items)
    return _days_hint(marked) if rule == REPEATED_ROW else ""


def _days_hint(marked: Marked) -> str:
    """Say so if the times are days, so that the same row twice may be two events."""
    sound = marked.table.filter(~pl.any_horizontal(b for name, b in marked.broken.items() if name != REPEATED_ROW))
    whole = (pl.col(schema.TIMESTAMP) % DAY == 0).all()
    days = sound.select(whole).collect(engine="streaming").item()
    return "all times are whole days, so that the same row twice may be two events; " if days else ""


def _alike_hint(marked: Marked, known_items: pl.Series) -> str:
    """Say so if unknown ids are known ones written otherwise, which is the usual reason for many of them."""
    unknown = marked.table.filter(marked.broken["unknown_item"]).select(schema.ITEM_ID).head(UNKNOWN_LOOKED_AT)
    ids = unknown.collect(engine="streaming").to_series().unique()
    looks = known_items.to_frame().select(looks_of(pl.col(schema.ITEM_ID))).to_series()
    alike = int(ids.to_frame().select(looks_of(pl.col(schema.ITEM_ID)).is_in(looks.implode()).sum()).item())
    if not alike:
        return ""
    return (
        f"{alike:,} of the first {len(ids):,} unknown ids are listed but for capitals, blanks or leading zeros: "
        "write ids one way; else "
    )
