"""What occurs more than once in a table too large for memory, exactly.

Our choices: only a 64-bit hash a row is kept (0.8 GB for 100 million rows) and sorted; rows whose hashes meet are then
read a second and last time, into a temporary file, and compared there cell by cell, so that two different rows of one
hash are never taken for one another. Of equal rows only the first one's number is held, however many they are.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prismrec.artifacts.atomic import is_full_disk
from prismrec.errors import UserError

ROW = "__row"  # number of a row in its table
SUSPECTS = 5_000_000  # different rows compared cell by cell at a time
_HASH = "__hash"


def repeated_rows(table: pl.LazyFrame, columns: Sequence[str], part: int = SUSPECTS) -> NDArray[np.int64]:
    """Numbers of the rows that are the same as an earlier one in `columns`, in order.

    Args:
        table: a table with a column `ROW`, int64, rising.
        columns: where two rows have to agree to be the same; null is the same as null.
        part: about how many different rows are held at a time.
    """
    key = pl.struct(columns).hash(0)
    hashes = _sorted_hashes(table, key)
    met = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    del hashes
    if not len(met):
        return np.empty(0, np.int64)
    parts = len(met) // part + 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "suspects.parquet")
        suspects = table.select(ROW, *columns, key.alias(_HASH)).filter(among(pl.col(_HASH), met))
        _write(suspects, file)
        written = pl.scan_parquet(file)
        first = [_first_ones(written.filter(pl.col(_HASH) % parts == number), columns) for number in range(parts)]
        rows = _numbers(written)
    later = np.ones(len(rows), np.bool_)
    later[np.searchsorted(rows, np.concatenate(first))] = False
    return rows[later]


def _write(table: pl.LazyFrame, file: Path) -> None:
    try:
        table.sink_parquet(file, maintain_order=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        if is_full_disk(error):
            raise UserError(
                "The disk for temporary files is full: repeated rows could not be told.",
                str(file.parent),
                "Make room there, or let TMPDIR name a folder on another disk; then run the same command again.",
            ) from error
        raise


def _first_ones(suspects: pl.LazyFrame, columns: Sequence[str]) -> NDArray[np.int64]:
    return _numbers(suspects.group_by(columns).agg(pl.col(ROW).min()))


def _numbers(table: pl.LazyFrame) -> NDArray[np.int64]:
    return table.select(ROW).collect(engine="streaming").to_series().to_numpy()


def frequent_hashes(table: pl.LazyFrame, key: pl.Expr, least: int) -> NDArray[np.uint64]:
    """Hashes that at least so many rows have, sorted.

    Args:
        table: any table.
        key: a hash of each row, uint64.
        least: 2 or more.
    """
    hashes = _sorted_hashes(table, key)
    # In sorted order a run of `least` equal ones has its ends `least` - 1 apart.
    starts = hashes[: max(len(hashes) - least + 1, 0)]
    return np.unique(starts[starts == hashes[least - 1 :]])


def _sorted_hashes(table: pl.LazyFrame, key: pl.Expr) -> NDArray[np.uint64]:
    hashes: NDArray[np.uint64] = (
        table.select(key.alias(_HASH)).collect(engine="streaming").to_series().to_numpy(writable=True)
    )
    hashes.sort()
    return hashes


def among(column: pl.Expr, values: NDArray[np.int64] | NDArray[np.uint64]) -> pl.Expr:
    """Whether a column without nulls is one of the sorted values; cheap for many of them, and row by row."""
    if not len(values):
        return pl.lit(False)

    def look_up(cells: pl.Series) -> pl.Series:
        cell_R = cells.to_numpy()
        place_R = np.minimum(np.searchsorted(values, cell_R), len(values) - 1)
        return pl.Series(values[place_R] == cell_R)

    return column.map_batches(look_up, return_dtype=pl.Boolean, is_elementwise=True)
