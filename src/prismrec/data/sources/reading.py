"""From cells to the raw tables: the events lazily, block by block, the items at once.

Files follow each other in order, and so do their rows; this order breaks ties of time later. What a file's head
shows to be hopeless (a column missing, no row that can be read) stops the run before anything is written; a row
that cannot be read is kept with the name of its problem.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from prismrec.data import schema
from prismrec.data.sources.cells import AS_GIVEN, PROBLEM, ROW, CellReader, require_columns
from prismrec.data.sources.opening import BLOCK, HEAD, RawFile, first_bytes
from prismrec.data.sources.texts import as_categories, clean, joined
from prismrec.data.sources.times import seconds, tell_unit
from prismrec.errors import UserError
from prismrec.parameters.sources import InteractionColumns, TimeUnit

HEAD_ROWS = 1000
CELLS_SHOWN = 3
SHAPE_SHOWN = 40  # characters of a cell
OUR_WEIGHT, OUR_TIME = "\x1fweight", "\x1ftime"
UNREADABLE_WEIGHT = "unreadable_weight"
PROBLEMS = {
    "ragged_row": "has another number of cells than there are columns",
    "stray_quote": "has a quote that is not closed, or not before a delimiter",
    "undecodable": "holds bytes that are no text in the encoding",
    "not_json": "is no JSON",
    "not_an_object": "is no object with names and values",
    "nested_value": "has a list or an object where an id, a time or a number has to be",
    "not_a_literal": "is no Python literal, or too long or deep to try",
    UNREADABLE_WEIGHT: "has a weight that is no number",
}


@dataclass(frozen=True)
class Interactions:
    """Files of events and how they are read.

    Attributes:
        readers: one a file, in order.
        columns: what the columns are called.
        unit: the times' unit.
    """

    readers: Sequence[CellReader]
    columns: InteractionColumns
    unit: TimeUnit

    def scan(self) -> pl.LazyFrame:
        """The raw table; its files are read when it is collected or sunk, and a bad one is a `UserError` then."""

        def source(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            left = n_rows
            for frame in self.frames():
                part = frame if left is None else frame.head(left)
                left = None if left is None else left - len(part)
                part = part if predicate is None else part.filter(predicate)
                yield part if with_columns is None else part.select(with_columns)
                if left == 0:
                    return

        return register_io_source(source, schema=schema.RAW_INTERACTIONS)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The raw table piece by piece."""
        before = 0
        for reader in self.readers:
            for cells in numbered(reader, wanted_columns(self.columns)):
                yield self._raw(cells, reader, before)
                before += len(cells)

    def _raw(self, cells: pl.DataFrame, reader: CellReader, before: int) -> pl.DataFrame:
        names = self.columns
        for column in (names.user_id, names.item_id):
            _refuse_float_ids(cells.schema[column], column, reader.file)
        weight = _weight(names.weight, cells.schema)
        time = (
            pl.int_range(before, before + pl.len(), dtype=pl.Int64)
            if names.timestamp is None
            else self._seconds(names.timestamp, cells.schema, reader)
        )
        rows = cells.with_columns(weight.alias(OUR_WEIGHT), time.alias(OUR_TIME))
        weightless = _given(names.weight) & pl.col(OUR_WEIGHT).is_null()
        timeless = _given(names.timestamp) & pl.col(OUR_TIME).is_null()
        rows = rows.with_columns(
            pl.when(weightless).then(pl.coalesce(PROBLEM, pl.lit(UNREADABLE_WEIGHT))).otherwise(PROBLEM).alias(PROBLEM),
            _as_given(rows, weightless | timeless),
        )
        event = pl.lit(None, pl.String) if names.event is None else pl.col(names.event)
        return rows.select(
            pl.col(names.user_id).cast(pl.String).alias(schema.USER_ID),
            pl.col(names.item_id).cast(pl.String).alias(schema.ITEM_ID),
            pl.col(OUR_TIME).alias(schema.TIMESTAMP),
            event.cast(pl.String).alias(schema.EVENT),
            pl.col(OUR_WEIGHT).alias(schema.WEIGHT),
            *_kept(reader),
        )

    def _seconds(self, column: str, types: pl.Schema, reader: CellReader) -> pl.Expr:
        unit: TimeUnit = "s" if column in reader.stored_times else self.unit
        return seconds(column, types[column], unit)


def read_interactions(
    readers: Sequence[CellReader], columns: InteractionColumns, time_unit: TimeUnit, extra: str = ""
) -> tuple[pl.LazyFrame, dict[str, Any]]:
    """Look at the files' heads; return the raw table, lazily, and what is to be said of it.

    Args:
        readers: one a file, in order.
        columns: what the columns are called.
        time_unit: the times' unit, or "auto".
        extra: what may be the matter if a column is missing.

    Raises:
        UserError: a column is missing, no row can be read, or the unit cannot be told.
    """
    wanted = {ours: given for ours, given in columns.model_dump().items() if given is not None}
    reader, head = look_at(readers, wanted, extra=extra)
    time = _unit(reader, head, columns.timestamp, time_unit)
    for column in (columns.user_id, columns.item_id):
        _refuse_float_ids(head.schema[column], column, reader.file)
    return Interactions(readers, columns, time["unit"]).scan(), described(readers, wanted) | {
        "time": {**time, "zone": "UTC"}
    }


def _unit(reader: CellReader, head: pl.DataFrame, column: str | None, declared: TimeUnit) -> dict[str, Any]:
    """The times' "unit", how it is known ("told"), and which one they look like if that is another ("looks_like").

    `known` is False where there are no times, but places that stand for them.
    """
    if column is None:
        return {"unit": "s", "told": "no times: the number of the row, over all files", "known": False}
    if column in reader.stored_times:
        return {"unit": "s", "told": "stored in the file as times"}
    cells = head.get_column(column).drop_nulls()
    unit = tell_unit(cells)
    if declared != "auto":
        read = cells.to_frame().select(seconds(column, cells.dtype, declared).count()).item()
        if 2 * read < len(cells):
            raise _no_times(reader, column, cells, f"times in '{declared}', which is declared", unit)
        return {"unit": declared, "told": "declared", **({} if unit in (None, declared) else {"looks_like": unit})}
    if unit is None:
        raise _no_times(reader, column, cells, "times that can be told", None)
    return {"unit": unit, "told": f"detected from the first {len(head):,} rows of {reader.file.name}"}


def _no_times(reader: CellReader, column: str, cells: pl.Series, what: str, unit: TimeUnit | None) -> UserError:
    """The error of a column of no times; it shows how its cells are made, for they may be no times but people."""
    shown = ", ".join(_shape(cell) for cell in cells.head(CELLS_SHOWN).cast(pl.String))
    mend = (
        "use seconds, milliseconds, microseconds or nanoseconds since 1970 UTC, or ISO 8601"
        " (2024-01-31T12:00:00Z); if it does, say which under 'time_unit'"
    )
    return UserError(
        f"Column '{column}' of {reader.file.name} holds no {what}.",
        f"{reader.file.path}, whose first ones, with 9 for any digit and a for any letter, are: {shown or 'empty'}",
        f"the first rows look like '{unit}': set time_unit to {unit} or auto" if unit else mend,
    )


def _shape(cell: str) -> str:
    """A text with its digits and letters made unreadable: 31.01.2024 is 99.99.9999."""
    return "".join("9" if sign.isdigit() else "a" if sign.isalpha() else sign for sign in cell[:SHAPE_SHOWN])


def look_at(
    readers: Sequence[CellReader], needed: Mapping[str, str], lists: Sequence[str] = (), extra: str = ""
) -> tuple[CellReader, pl.DataFrame]:
    """Check every file's columns; return the first file with rows, and its first rows.

    Raises:
        UserError: a column is missing, there is no row, or most rows of a head cannot be read.
    """
    found: tuple[CellReader, pl.DataFrame] | None = None
    for reader in readers:
        if not reader.columns:
            continue
        require_columns(reader, dict(needed), extra)
        if found is None:
            batches = numbered(reader, list(dict.fromkeys(needed.values())), lists, HEAD)
            head = next((batch for batch in islice(batches, 1)), pl.DataFrame())
            if len(head):
                found = reader, head.head(HEAD_ROWS)
                _refuse_unreadable(reader, found[1])
    if found is None:
        names = ", ".join(reader.file.name for reader in readers)
        raise UserError(f"{names} holds no rows.", str(readers[0].file.path), "put the whole file there")
    return found


def _refuse_unreadable(reader: CellReader, head: pl.DataFrame) -> None:
    """Raise `UserError` where most of the first rows have a problem."""
    bad = head.filter(pl.col(PROBLEM).is_not_null())
    if 2 * len(bad) <= len(head):
        return
    row, problem, text = bad.select(ROW, PROBLEM, AS_GIVEN).row(0)
    # The row itself may name a person: how it is made has to do.
    made = f"row {row} (from 0, the header not counted) has {len(text)} characters"
    delimiter = reader.described.get("delimiter")
    made += f", {text.count(delimiter)} of them delimiters" if delimiter else ""
    mend = "check that this is the file that is meant, and how it is written (delimiter, columns, encoding)"
    if problem == "undecodable":
        likely = _likely_encoding(reader.file)
        mend = f"it is likely {likely}: set encoding: {likely}, or convert it: iconv -f {likely} -t utf-8"
    described_as = ", ".join(f"{key} {value!r}" for key, value in reader.described.items())
    raise UserError(
        f"{len(bad)} of the first {len(head)} rows of {reader.file.name} cannot be read: a row {PROBLEMS[problem]}.",
        f"{reader.file.path}, read as {described_as}, {len(reader.columns)} columns; {made}",
        mend,
    )


def _likely_encoding(file: RawFile) -> str:
    """Western letters are the likeliest: cp1252 where it has a letter and Latin-1 a control character."""
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in first_bytes(file)) else "latin-1"


def numbered(
    reader: CellReader, wanted: Sequence[str], lists: Sequence[str] = (), size: int = BLOCK
) -> Iterator[pl.DataFrame]:
    """Batches of cells with each row's number in the file as `ROW`; a reader may number its rows itself."""
    row = 0
    if not reader.columns:
        return
    for cells in reader.batches(wanted, lists, size):
        yield cells if ROW in cells.columns else cells.with_row_index(ROW, row)
        row += len(cells)


def _kept(reader: CellReader) -> tuple[pl.Expr, ...]:
    """What the raw tables keep of a row beside its cells."""
    return (
        pl.lit(reader.file.name).alias(schema.SOURCE_FILE),
        pl.col(ROW).cast(pl.Int64).alias(schema.SOURCE_ROW),
        pl.col(PROBLEM).alias(schema.PROBLEM),
        pl.col(AS_GIVEN).alias(schema.AS_GIVEN),
    )


def read_cells(
    readers: Sequence[CellReader], needed: Mapping[str, str], lists: Sequence[str] = (), extra: str = ""
) -> pl.DataFrame:
    """All rows of a small table, its columns by our names, as text.

    Raises:
        UserError: a column is missing, or no row can be read.
    """
    look_at(readers, needed, lists, extra)
    wanted = list(dict.fromkeys(needed.values()))
    parts = []
    for reader in readers:
        for cells in numbered(reader, wanted, lists):
            _refuse_float_ids(cells.schema[needed[schema.ITEM_ID]], needed[schema.ITEM_ID], reader.file)
            parts.append(cells.select(*(pl.col(g).cast(pl.String).alias(o) for o, g in needed.items()), *_kept(reader)))
    return pl.concat(parts)


def items_table(cells: pl.DataFrame, separator: str = "|") -> pl.DataFrame:
    """The raw items from cells of item_id, title, text, categories (text; the last two may be absent), cleaned."""
    text = pl.col(schema.TEXT) if schema.TEXT in cells.columns else pl.lit(None, pl.String)
    categories = pl.col(schema.CATEGORIES) if schema.CATEGORIES in cells.columns else pl.lit(None, pl.String)
    return schema.conform(
        cells.with_columns(
            clean(pl.col(schema.TITLE).map_elements(joined, return_dtype=pl.String)).alias(schema.TITLE),
            clean(text.map_elements(joined, return_dtype=pl.String)).fill_null("").alias(schema.TEXT),
            categories.map_elements(
                lambda cell: as_categories(cell, separator), return_dtype=schema.STRING_LIST, skip_nulls=True
            )
            .fill_null([])
            .alias(schema.CATEGORIES),
        ),
        schema.RAW_ITEMS,
    )


def described(readers: Sequence[CellReader], columns: Mapping[str, str]) -> dict[str, Any]:
    """What is to be said of a table's files; columns that are not read are named."""
    read = set(columns.values())
    return {
        "files": [{"name": reader.file.name, "bytes": reader.file.size} for reader in readers],
        **readers[0].described,
        "columns": dict(columns),
        "columns_not_read": sorted({name for reader in readers for name in reader.columns} - read),
    }


def wanted_columns(columns: InteractionColumns) -> list[str]:
    """The files' columns that are read, each once."""
    return list(dict.fromkeys(given for given in columns.model_dump().values() if given is not None))


def _weight(column: str | None, types: pl.Schema) -> pl.Expr:
    if column is None:
        return pl.lit(None, pl.Float64)
    text = pl.col(column).str.strip_chars() if types[column] == pl.String else pl.col(column)
    return text.cast(pl.Float64, strict=False)


def _given(column: str | None) -> pl.Expr:
    return pl.lit(False) if column is None else pl.col(column).is_not_null()


def _as_given(rows: pl.DataFrame, unread: pl.Expr) -> pl.Expr | pl.Series:
    """`as_given`, with the cells as JSON for the rows of which one could not be read."""
    bad = rows.select(unread).to_series()
    if not bad.any():
        return pl.col(AS_GIVEN)
    ours = {ROW, PROBLEM, AS_GIVEN, OUR_WEIGHT, OUR_TIME}
    cells = rows.filter(bad).select(pl.struct(pl.exclude(ours)).struct.json_encode()).to_series()
    return rows.get_column(AS_GIVEN).scatter(bad.arg_true(), cells)


def _refuse_float_ids(dtype: pl.DataType, column: str, file: RawFile) -> None:
    if dtype.is_float():
        raise UserError(
            f"Column '{column}' of {file.name} holds ids as floating-point numbers, which cannot be kept as given.",
            str(file.path),
            "write ids as text or as integers; a missing id often turns a column of integers into floats",
        )
