"""Apply the contracts: rows in = rows validated + rows quarantined, each with its reasons.

The items table goes first, since the interactions' contract asks which items are known. A table that
loses more than `max_quarantined_share` of its rows, or all of them, or breaks a `reject` rule, stops
the run with a message that holds the report in short.
"""

import json
from hashlib import sha256
from typing import Any, NamedTuple

import polars as pl

from prismrec.data import schema
from prismrec.data.contract import Contract, interactions_contract, items_contract
from prismrec.errors import DataRejected
from prismrec.parameters.data_validation import DataValidationParameters

RULES_IN_MESSAGE = 3
LONGEST_CELL = 120  # characters shown of a cell


class ValidatedTables(NamedTuple):
    """Validated tables and the quarantine (see `prismrec.data.schema`)."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    quarantine: pl.DataFrame


def validate_tables(
    raw_interactions: pl.DataFrame, raw_items: pl.DataFrame, parameters: DataValidationParameters
) -> ValidatedTables:
    """Split both raw tables by their contracts.

    Raises:
        DataRejected: a table breaks its contract beyond the threshold, or no row of it is left.
    """
    items, bad_items = _split(raw_items, items_contract(), parameters)
    contract = interactions_contract(parameters, items.get_column(schema.ITEM_ID))
    interactions, bad_interactions = _split(raw_interactions, contract, parameters)
    return ValidatedTables(interactions, items, pl.concat([bad_items, bad_interactions]))


def _split(
    raw: pl.DataFrame, contract: Contract, parameters: DataValidationParameters
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Validated and quarantined rows of one table."""
    assert raw.schema == contract.raw, f"a source must return {contract.table} as its schema says"
    rules = [rule for rule in contract.rules if rule.severity != "warn"]
    flags = raw.select(rule.broken.fill_null(False).alias(rule.name) for rule in rules)
    bad = flags.select(pl.any_horizontal(pl.all())).to_series()
    quarantine = _quarantine(raw.filter(bad), flags.filter(bad), contract)
    _refuse_beyond_threshold(quarantine, len(raw), contract, parameters)
    validated = schema.conform(raw.filter(~bad), contract.validated)
    assert len(raw) == len(validated) + len(quarantine), "no row may vanish"
    return validated, quarantine


def _quarantine(rows: pl.DataFrame, flags: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    reasons = pl.concat_list(pl.when(name).then(pl.lit(name)) for name in flags.columns)
    reject = [rule.name for rule in contract.rules if rule.severity == "reject"]
    cells = [name for name in rows.columns if name not in (schema.SOURCE_FILE, schema.SOURCE_ROW)]
    explained = rows.with_columns(
        pl.lit(contract.table).alias("table"),
        flags.select(reasons.list.drop_nulls()).to_series().alias("rules"),
        pl.struct(cells).struct.json_encode().alias("row"),
    )
    rejects = pl.col("rules").list.eval(pl.element().is_in(reject)).list.any()
    severity = pl.when(rejects).then(pl.lit("reject")).otherwise(pl.lit("quarantine"))
    return schema.conform(explained.with_columns(severity.alias("severity")), schema.QUARANTINE)


def count_rules(quarantine: pl.DataFrame) -> dict[str, int]:
    """Rows that break each rule, most frequent first, then by name; a row may break several."""
    counts = quarantine.get_column("rules").explode(empty_as_null=False).value_counts(name="rows")
    return dict(counts.sort(["rows", "rules"], descending=[True, False]).iter_rows())


def show_row(row: str) -> dict[str, Any]:
    """A quarantined row as a report may show it: the user id hashed, long cells cut."""
    cells: dict[str, Any] = json.loads(row)
    user = cells.get(schema.USER_ID)
    if user is not None:
        cells[schema.USER_ID] = "user " + sha256(user.encode()).hexdigest()[:10]
    return {name: _cut(cell) if isinstance(cell, str) else cell for name, cell in cells.items()}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _refuse_beyond_threshold(
    quarantine: pl.DataFrame, rows: int, contract: Contract, parameters: DataValidationParameters
) -> None:
    """Raise if the table must not be used."""
    share = len(quarantine) / max(rows, 1)
    if rows == 0:
        raise DataRejected(f"The {contract.table} table is empty.", mend="check what the source reads")
    if (quarantine.get_column("severity") == "reject").any():
        why = "a rule of severity 'reject' is broken"
    elif share > parameters.max_quarantined_share:
        why = f"at most {parameters.max_quarantined_share:.2%} may"
    elif len(quarantine) == rows:
        why = "no row is left"
    else:
        return
    counts = count_rules(quarantine)
    worst = list(counts.items())[:RULES_IN_MESSAGE]
    mends = {rule.name: rule.mend for rule in contract.rules}
    raise DataRejected(
        f"The {contract.table} table is refused: {len(quarantine):,} of {rows:,} rows ({share:.2%}) break"
        f" the data contract, and {why}.",
        "".join(f"\n    {count:,} x {name}, such as {_example(quarantine, name)}" for name, count in worst),
        f"{mends[worst[0][0]]}; or accept such rows with data_validation.max_quarantined_share",
    )


def _example(quarantine: pl.DataFrame, rule: str) -> str:
    """The first row that breaks the rule, and where it stands."""
    row = quarantine.filter(pl.col("rules").list.contains(rule)).row(0, named=True)
    return f"{row[schema.SOURCE_FILE]}, row {row[schema.SOURCE_ROW]}: {show_row(row['row'])}"
