"""Source `files`: anybody's own logs, described in a few lines of YAML (docs/how-to/bring-your-data.md)."""

from pathlib import Path
from typing import Any

import polars as pl

from prismrec.data import schema
from prismrec.data.sources.cells import CellReader
from prismrec.data.sources.delimited import DelimitedReader, Dialect, fitting_delimiter
from prismrec.data.sources.json_lines import LinesReader, refuse_array
from prismrec.data.sources.opening import PARQUET, UTF8_MARK, RawFile, find_files, find_folder, first_bytes
from prismrec.data.sources.parquet import ParquetReader
from prismrec.data.sources.reading import described, items_table, read_cells, read_interactions
from prismrec.data.sources.tables import SourceTables
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sources import FileFormat, InteractionFiles, ItemFiles, TableFiles

JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
COMPRESSED = (".gz", ".zst", ".zstd")


class FilesSource:
    """Delimited text, JSON Lines or Parquet with columns of any names; see `FilesParameters`."""

    def read(self, parameters: DataValidationParameters) -> SourceTables:
        """Read both tables; without an items file the items are those of the events, titled by their ids."""
        folder = find_folder(parameters.data_root, parameters.folder, parameters.source)
        events, things = parameters.files.interactions, parameters.files.items
        interactions, facts = _interactions(folder, events)
        if things.path is None:
            items = _items_of(interactions)
            return SourceTables(interactions, items, {"interactions": facts, "notes": [f"{NO_ITEMS} ({len(items):,})"]})
        items, item_facts = _items(folder, things, things.path)
        return SourceTables(interactions, items, {"interactions": facts, "items": item_facts})


NO_ITEMS = "no items file: the items are those of the events, and their ids are their titles"


def _interactions(folder: Path, events: InteractionFiles) -> tuple[pl.LazyFrame, dict[str, Any]]:
    wanted = {ours: given for ours, given in events.columns.model_dump().items() if given is not None}
    readers = [open_reader(file, events, wanted) for file in find_files(folder, events.path)]
    return read_interactions(readers, events.columns, events.time_unit, _other_delimiter(readers, wanted))


def _items(folder: Path, things: ItemFiles, path: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    wanted = {ours: given for ours, given in things.columns.model_dump().items() if given is not None}
    readers = [open_reader(file, things, wanted) for file in find_files(folder, path)]
    lists = [wanted[name] for name in (schema.TEXT, schema.CATEGORIES) if name in wanted]
    cells = read_cells(readers, wanted, lists, _other_delimiter(readers, wanted))
    return items_table(cells, things.category_separator), described(readers, wanted)


def _items_of(interactions: pl.LazyFrame) -> pl.DataFrame:
    """The events' items in the order of their ids, titled by them."""
    known = interactions.filter(pl.col(schema.ITEM_ID).is_not_null()).select(schema.ITEM_ID).unique()
    ids = known.collect(engine="streaming").sort(schema.ITEM_ID)
    nothing = (schema.TEXT, schema.PROBLEM, schema.AS_GIVEN)
    return schema.conform(
        ids.with_columns(
            pl.col(schema.ITEM_ID).alias(schema.TITLE),
            pl.lit([], schema.STRING_LIST).alias(schema.CATEGORIES),
            pl.lit("the events' item ids").alias(schema.SOURCE_FILE),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(schema.SOURCE_ROW),
            *(pl.lit(None, pl.String).alias(name) for name in nothing),
        ).with_columns(pl.lit("").alias(schema.TEXT)),
        schema.RAW_ITEMS,
    )


def open_reader(file: RawFile, written: TableFiles, wanted: dict[str, str]) -> CellReader:
    """Return the reader of a file, by what is declared and otherwise by how the file begins.

    Args:
        file: the file.
        written: how it is written.
        wanted: our column -> the file's column.
    """
    head = first_bytes(file).removeprefix(UTF8_MARK)
    text = head.decode(written.encoding, "replace")
    match _format(file, written.format, head):
        case "parquet":
            if file.path.name.endswith(COMPRESSED):
                raise UserError(
                    f"{file.name} is a compressed Parquet file.",
                    str(file.path),
                    "unpack it: Parquet is compressed inside",
                )
            return ParquetReader(file)
        case "json_lines":
            refuse_array(file, text)
            return LinesReader(file, encoding=written.encoding)
        case _:
            names = () if written.header is not None else tuple(wanted.values())
            delimiter = written.delimiter
            if delimiter == "auto":
                delimiter = fitting_delimiter(text, names) or (fitting_delimiter(text, ()) or ",")
            return DelimitedReader(file, Dialect(delimiter, True, written.encoding, written.header))


def _format(file: RawFile, declared: FileFormat, head: bytes) -> FileFormat:
    if declared != "auto":
        return declared
    name = file.path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    if head.startswith(PARQUET) or name.endswith((".parquet", ".pq")):
        return "parquet"
    if head.lstrip().startswith(b"{") or name.endswith(JSON_ENDINGS):
        return "json_lines"
    return "delimited"


def _other_delimiter(readers: list[CellReader], wanted: dict[str, str]) -> str:
    """What to say where another delimiter would give the columns; empty if none."""
    reader = readers[0]
    if not isinstance(reader, DelimitedReader) or reader.dialect.header is not None:
        return ""
    head = first_bytes(reader.file).removeprefix(UTF8_MARK).decode(reader.dialect.encoding, "replace")
    fits = fitting_delimiter(head, tuple(wanted.values()))
    if fits is None or fits == reader.dialect.delimiter or set(wanted.values()) <= set(reader.columns):
        return ""
    return f"the cells seem to be separated by {fits!r}: set delimiter: auto"
