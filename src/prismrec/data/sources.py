"""Sources: each reads one kind of raw data into the two raw tables, and changes no value on the way.

A source adapts names, types and encodings; judging rows is the contract's work (`prismrec.data.contract`).
So a cell that cannot be read as a time becomes null and is quarantined later, while a file that is
missing, of another encoding or without a needed column is a `UserError` here. `source_row` counts a
file's rows from 0 in the order of the file, header not counted; it is the tie rule's second key.
A new source is a class with `read` and a line in `SOURCES`.
"""

import html
from pathlib import Path
from typing import NamedTuple, Protocol

import polars as pl

from prismrec.data import schema
from prismrec.data.synthetic import make_world
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters

FIELD_SEPARATOR = "::"  # MovieLens
PLOT_FIELD = 9  # of movies_extrainfos.dat
EXTRA_FIELDS = 11


class RawTables(NamedTuple):
    """What every source returns: `RAW_INTERACTIONS`, `RAW_ITEMS` and `PLANTED_TRUTH` frames."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    planted_truth: pl.DataFrame


class Source(Protocol):
    """One kind of raw data."""

    def read(self, parameters: DataValidationParameters) -> RawTables:
        """Read the raw tables; raise `UserError` for a file that cannot be read as this kind."""


def read_source(parameters: DataValidationParameters) -> RawTables:
    """Read the configured source.

    Raises:
        UserError: a file is missing, holds no row, is not in the expected encoding or lacks a column.
    """
    return SOURCES[parameters.source].read(parameters)


class SyntheticSource:
    """The world of `prismrec.data.synthetic`; reads no file."""

    def read(self, parameters: DataValidationParameters) -> RawTables:
        """Generate the world."""
        return RawTables(*make_world(parameters.seed, parameters.synthetic))


class MovieLens1MSource:
    """MovieLens-1M: `ratings.dat` and `movies.dat`, and `movies_extrainfos.dat` where it exists.

    Ratings count as interactions whatever their stars. A film's text is its genres and, by parameter,
    its plot.
    """

    def read(self, parameters: DataValidationParameters) -> RawTables:
        """Read ratings and films."""
        folder = _folder(parameters)
        return RawTables(self._interactions(folder), self._items(folder, parameters.plots), _no_truth())

    def _interactions(self, folder: Path) -> pl.DataFrame:
        fields = _double_colon_fields(_existing(folder / "ratings.dat"), 4, "latin-1")
        return _located(
            fields.select(
                pl.col("0").alias(schema.USER_ID),
                pl.col("1").alias(schema.ITEM_ID),
                _as_seconds(pl.col("3")).alias(schema.TIMESTAMP),
            ),
            "ratings.dat",
            schema.RAW_INTERACTIONS,
        )

    def _items(self, folder: Path, with_plots: bool) -> pl.DataFrame:
        films = _double_colon_fields(_existing(folder / "movies.dat"), 3, "latin-1").select(
            pl.col("0").alias(schema.ITEM_ID),
            pl.col("1").alias(schema.TITLE),
            _as_list(pl.col("2")).alias(schema.CATEGORIES),
        )
        genres = pl.col(schema.CATEGORIES).list.join(", ")
        extra = folder / "movies_extrainfos.dat"
        if with_plots and extra.is_file():
            plots = _double_colon_fields(extra, EXTRA_FIELDS, "utf-8").select(
                pl.col("0").alias(schema.ITEM_ID), pl.col(str(PLOT_FIELD)).alias("plot")
            )
            plots = plots.unique(schema.ITEM_ID, keep="first", maintain_order=True)
            films = films.join(plots, on=schema.ITEM_ID, how="left", maintain_order="left")
            text = pl.concat_str(genres, pl.col("plot"), separator=". ", ignore_nulls=True)
        else:
            text = genres
        return _located(films.with_columns(text.alias(schema.TEXT)), "movies.dat", schema.RAW_ITEMS)


class CsvSource:
    """`interactions.csv` (user_id, item_id, timestamp) and `items.csv` (item_id, title).

    UTF-8, comma-separated, quoted where needed. `items.csv` may also hold `text` and `categories`
    (separated by `|`). HTML entities in titles and texts are unescaped.
    """

    def read(self, parameters: DataValidationParameters) -> RawTables:
        """Read both files."""
        folder = _folder(parameters)
        return RawTables(self._interactions(folder), self._items(folder), _no_truth())

    def _interactions(self, folder: Path) -> pl.DataFrame:
        columns = (schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP)
        table = _csv_strings(_existing(folder / "interactions.csv"), columns)
        return _located(
            table.with_columns(_as_seconds(pl.col(schema.TIMESTAMP))),
            "interactions.csv",
            schema.RAW_INTERACTIONS,
        )

    def _items(self, folder: Path) -> pl.DataFrame:
        table = _csv_strings(_existing(folder / "items.csv"), (schema.ITEM_ID, schema.TITLE))
        text = pl.col(schema.TEXT) if schema.TEXT in table.columns else pl.lit("")
        categories = (
            _as_list(pl.col(schema.CATEGORIES))
            if schema.CATEGORIES in table.columns
            else pl.lit([], schema.STRING_LIST)
        )
        return _located(
            table.with_columns(
                _plain_text(pl.col(schema.TITLE)),
                _plain_text(text.fill_null("")).alias(schema.TEXT),
                categories.alias(schema.CATEGORIES),
            ),
            "items.csv",
            schema.RAW_ITEMS,
        )


SOURCES: dict[str, Source] = {
    "synthetic": SyntheticSource(),
    "movielens_1m": MovieLens1MSource(),
    "csv": CsvSource(),
}


def _folder(parameters: DataValidationParameters) -> Path:
    """The data set's folder."""
    folder = Path(parameters.data_root) / parameters.folder
    if not folder.is_dir():
        raise UserError(
            f"The raw data of source '{parameters.source}' is not there: no such folder.",
            f"{folder} (data_root is '{parameters.data_root}')",
            _DATA_ROOT_MEND,
        )
    return folder


_DATA_ROOT_MEND = (
    "put the data set there, or point data_root at it: export PRISMREC_DATA_ROOT=/path/to/data,"
    " or set data_root in conf/base/globals.yml"
)


def _existing(path: Path) -> Path:
    if not path.is_file():
        root = path.parent.parent
        raise UserError(f"The file {path.name} is missing.", f"{path} (below data_root '{root}')", _DATA_ROOT_MEND)
    return path


def _double_colon_fields(path: Path, fields: int, encoding: str) -> pl.DataFrame:
    """Fields of a MovieLens file as strings, columns "0" to "fields - 1".

    A row of another number of fields becomes nulls, which the contract then quarantines.
    """
    try:
        text = path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_encoded(path, encoding) from error
    # str.splitlines would also cut at \x85, a letter's byte in some code pages.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    names = [str(i) for i in range(fields)]
    split = pl.DataFrame({"line": lines}).select(
        # Everything past the last expected separator stays in the last field, and counts as too many.
        pl.col("line").str.splitn(FIELD_SEPARATOR, fields).struct.rename_fields(names).alias("parts")
    )
    whole = pl.col(names[-1]).is_not_null() & ~pl.col(names[-1]).str.contains(FIELD_SEPARATOR, literal=True)
    table = split.unnest("parts").select(pl.when(whole).then(pl.col(name)).alias(name) for name in names)
    if not table.get_column("0").is_not_null().any():
        raise UserError(
            f"No row of {path.name} has {fields} fields separated by '{FIELD_SEPARATOR}'.",
            str(path),
            "check that this is the MovieLens file, unchanged, and that it is not empty",
        )
    return table.with_columns(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in names)


def _csv_strings(path: Path, needed: tuple[str, ...]) -> pl.DataFrame:
    """All columns of a csv file as strings, empty cells as null."""
    try:
        table = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.NoDataError as error:
        raise _empty(path) from error
    except pl.exceptions.ComputeError as error:
        if not _is_utf8(path):
            raise _not_encoded(path, "utf-8") from error
        raise UserError(
            f"{path.name} is not a well-formed csv file: {str(error).splitlines()[0]}.",
            str(path),
            "quote cells that hold a comma or a line break, and give every row the header's number of cells",
        ) from error
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise UserError(
            f"{path.name} has no column {', '.join(repr(name) for name in missing)}.",
            f"{path}, whose first row reads: {', '.join(table.columns)[:200]}",
            f"name the columns {', '.join(needed)} in a header row and separate cells by commas",
        )
    if table.is_empty():
        raise _empty(path)
    return table


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _empty(path: Path) -> UserError:
    return UserError(f"{path.name} holds no rows.", str(path), "put the whole file there")


def _not_encoded(path: Path, encoding: str) -> UserError:
    return UserError(
        f"{path.name} is not {encoding.upper()} text.",
        str(path),
        f"convert it, for example: iconv -f latin1 -t {encoding} {path.name} > converted",
    )


def _as_seconds(text: pl.Expr) -> pl.Expr:
    """Whole seconds of a decimal number in text; null where it is none."""
    number = text.str.strip_chars()
    # Floats lose no second below 2**53; the integer comes first because it is exact beyond.
    return pl.coalesce(
        number.cast(pl.Int64, strict=False),
        number.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False),
    )


def _as_list(text: pl.Expr) -> pl.Expr:
    """Categories from "a|b"; none from an empty cell."""
    return text.fill_null("").str.split("|").list.eval(pl.element().filter(pl.element() != ""))


def _plain_text(text: pl.Expr) -> pl.Expr:
    """Unescape HTML entities, and put runs of white space (line breaks too) as one blank."""
    return text.map_elements(html.unescape, return_dtype=pl.String).str.replace_all(r"\s+", " ").str.strip_chars()


def _located(table: pl.DataFrame, name: str, columns: pl.Schema) -> pl.DataFrame:
    """Say of each row where it stands."""
    return schema.conform(
        table.with_columns(
            pl.lit(name).alias(schema.SOURCE_FILE),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(schema.SOURCE_ROW),
        ),
        columns,
    )


def _no_truth() -> pl.DataFrame:
    return pl.DataFrame(schema=schema.PLANTED_TRUTH)
