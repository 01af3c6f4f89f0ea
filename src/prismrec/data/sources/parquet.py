"""Parquet files: types as the file has them, piece by piece, every text checked to be one."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from prismrec.data.sources.cells import AS_GIVEN, COLUMNS_SHOWN, PROBLEM
from prismrec.data.sources.opening import BLOCK, RawFile, check_unchanged, damaged, find_file_again
from prismrec.data.sources.texts import list_cell
from prismrec.errors import UserError

ROWS_AT_ONCE = 262_144
SECONDS_OF_DAY = 86_400


@dataclass(frozen=True)
class ParquetReader:
    """Reads a Parquet file (see `prismrec.data.sources.cells.CellReader`)."""

    file: RawFile

    @cached_property
    def types(self) -> dict[str, Any]:
        """Arrow's type of each column.

        Raises:
            UserError: the file is no whole Parquet file, or names two columns alike.
        """
        with self._opened() as parquet:
            found = parquet.schema_arrow
        if len(set(found.names)) < len(found.names):
            twice = sorted({name for name in found.names if found.names.count(name) > 1})
            raise UserError(
                f"{self.file.name} has more than one column {', '.join(map(repr, twice[:COLUMNS_SHOWN]))}.",
                str(self.file.path),
                "give every column a name of its own",
            )
        return dict(zip(found.names, found.types, strict=True))

    @property
    def columns(self) -> tuple[str, ...]:
        """The file's columns."""
        return tuple(self.types)

    @property
    def described(self) -> dict[str, str]:
        """The format."""
        return {"format": "parquet"}

    @property
    def stored_times(self) -> tuple[str, ...]:
        """Columns of times and dates."""
        import pyarrow as pa

        return tuple(
            name for name, type_ in self.types.items() if pa.types.is_timestamp(type_) or pa.types.is_date(type_)
        )

    def batches(self, wanted: Sequence[str], lists: Collection[str] = (), size: int = BLOCK) -> Iterator[pl.DataFrame]:
        """Yield the rows; `size` has no part in it.

        Raises:
            UserError: besides what all raise, a wanted column is of a type that cannot be read as a cell.
        """
        with self._opened() as parquet:
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=list(dict.fromkeys(wanted)), use_threads=False):
                batch.validate(full=True)
                yield pl.DataFrame(
                    [self._series(name, batch.column(name), name in lists) for name in dict.fromkeys(wanted)]
                ).with_columns(pl.lit(None, pl.String).alias(PROBLEM), pl.lit(None, pl.String).alias(AS_GIVEN))
        check_unchanged(self.file)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        find_file_again(self.file)
        check_unchanged(self.file)
        try:
            with pq.ParquetFile(self.file.path) as parquet:
                yield parquet
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            check_unchanged(self.file)
            raise damaged(self.file, "Parquet", error) from error

    def _series(self, name: str, column: Any, may_be_list: bool) -> pl.Series:
        """A column's cells: text, numbers, or seconds of times."""
        import pyarrow as pa
        import pyarrow.compute as pc

        type_ = column.type
        if pa.types.is_dictionary(type_):
            column = column.cast(type_.value_type)
            type_ = column.type
        if pa.types.is_timestamp(type_):
            return _named(
                name, pc.floor_temporal(column, unit="second").cast(pa.timestamp("s", type_.tz)).cast("int64")
            )
        if pa.types.is_date(type_):
            return _named(name, column.cast(pa.date32()).cast("int32")).cast(pl.Int64) * SECONDS_OF_DAY
        if pa.types.is_nested(type_) and may_be_list:
            return pl.Series(
                name, [None if value is None else list_cell(value) for value in column.to_pylist()], pl.String
            )
        if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_decimal(type_):
            column = self._text(name, column)
            type_ = column.type
        plain = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
                 pa.types.is_floating, pa.types.is_null)  # fmt: skip
        if not any(is_kind(type_) for is_kind in plain):
            raise UserError(
                f"Column '{name}' of {self.file.name} is of type {type_}, which is no id, time or number.",
                str(self.file.path),
                "write it as text or as integers",
            )
        series = _named(name, column)
        return series.cast(pl.String) if series.dtype == pl.Null else series

    def _text(self, name: str, column: Any) -> Any:
        """Bytes or decimals as text."""
        import pyarrow as pa

        try:
            return column.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise UserError(
                f"Column '{name}' of {self.file.name} holds bytes ({column.type}) that are no text in UTF-8.",
                str(self.file.path),
                "write it as text: decode the bytes as what they are, or write keys and hashes in hexadecimal",
            ) from error


def _named(name: str, column: Any) -> pl.Series:
    series = pl.from_arrow(column)
    assert isinstance(series, pl.Series)
    return series.rename(name)
