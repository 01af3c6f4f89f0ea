"""The users of a batch: a parquet file of histories, read a part at a time, and their items looked up.

Shapes: U users of a part, E events.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prismrec.errors import UserError
from prismrec.serving.types import MAX_HISTORY

if TYPE_CHECKING:
    import pyarrow as pa

USER, HISTORY, TIMES = "user_id", "history", "timestamps"


class UserEvents(NamedTuple):
    """The users of one part, and of their events those that the catalogue knows."""

    user_ids: pa.Array
    offsets_U1: np.ndarray
    items_E: np.ndarray  # item indices
    times_E: np.ndarray  # zeros where they are unknown
    timed_U: np.ndarray  # bool, whether the user's times are known


class UsersFile:
    """The input.

    Raises:
        UserError: it is missing, no parquet file, or without the columns that are needed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise UserError(
                "The package pyarrow is not installed.", "batch", "pip install 'prismrec[batch]'"
            ) from error
        if not path.is_file():
            raise UserError("There is no such file of users.", str(path), "Name a parquet file, one row a user.")
        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise UserError(f"This is no parquet file: {error}", str(path)) from error
        schema = self._file.schema_arrow
        self._columns = [name for name in (USER, HISTORY, TIMES) if name in schema.names]
        for name in self._columns:
            self._check(path, name, schema.field(name).type)
        if missing := {USER, HISTORY} - set(self._columns):
            raise _wrong(path, f"It has no column {', '.join(sorted(missing))}.")
        self.num_users: int = self._file.metadata.num_rows

    @staticmethod
    def _check(path: Path, name: str, kind: pa.DataType) -> None:
        from pyarrow import types

        if name != USER:
            if not (types.is_list(kind) or types.is_large_list(kind)):
                raise _wrong(path, f"Its column {name} is of {kind}, not of lists.")
            kind = kind.value_type
        strings = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if not (types.is_integer(kind) or (strings and name != TIMES)):
            raise _wrong(path, f"Its column {name} holds {kind}.")

    def parts(self, size: int) -> Iterator[pa.Table]:
        """The users, `size` at a time, however the file was written."""
        import pyarrow as pa

        waiting: list[pa.RecordBatch] = []
        for batch in self._file.iter_batches(batch_size=size, columns=self._columns):
            waiting.append(batch)
            rows = pa.Table.from_batches(waiting)
            if len(rows) >= size:
                yield rows.slice(0, size)
                waiting = rows.slice(size).to_batches()
        if waiting:
            yield pa.Table.from_batches(waiting)


def look_up(rows: pa.Table, item_ids: pa.Array, first: int) -> UserEvents:
    """Look the items up; unknown ones are left out, and all but the newest MAX_HISTORY events.

    Args:
        item_ids: of the catalogue, in the order of the item indices.
        first: number of the first user in the file, for messages.
    """
    import pyarrow.compute as pc

    ids, history = rows[USER].combine_chunks(), rows[HISTORY].combine_chunks()
    if ids.null_count:
        raise UserError(
            "A user has no id.",
            f"row {first + pc.index(pc.is_null(ids), True).as_py():,}, counted from 0",
            "Give every row one.",
        )
    length_U = pc.fill_null(pc.list_value_length(history), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    index_E = pc.index_in(_as_strings(pc.list_flatten(history)), value_set=item_ids)
    times_E, timed_U = _times(rows, length_U, first)
    user_E = np.repeat(np.arange(len(rows)), length_U)
    from_end_E = np.repeat(length_U.cumsum(), length_U) - np.arange(len(user_E))
    kept_E = pc.is_valid(index_E).to_numpy(zero_copy_only=False) & (from_end_E <= MAX_HISTORY)
    counts_U = np.bincount(user_E[kept_E], minlength=len(rows))
    items_E = pc.fill_null(index_E, 0).to_numpy(zero_copy_only=False)
    offsets_U1 = np.concatenate([[0], counts_U.cumsum()])
    return UserEvents(_as_strings(ids), offsets_U1, items_E[kept_E], times_E[kept_E], timed_U)


def _times(rows: pa.Table, length_U: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of all events, 0 where they are unknown, and whose are known."""
    import pyarrow.compute as pc

    times_E, timed_U = np.zeros(length_U.sum(), np.int64), np.zeros(len(rows), bool)
    if TIMES not in rows.column_names:
        return times_E, timed_U
    column = rows[TIMES].combine_chunks()
    given_U = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    timed_U = given_U > 0
    flat = pc.list_flatten(column)
    wrong_U = timed_U & (given_U != length_U)
    if wrong_U.any() or flat.null_count:
        row = first + int(wrong_U.argmax())
        raise UserError(
            "A user's timestamps are not as many as the events of the history, or some are missing.",
            f"row {row:,}, counted from 0, or one of the next {len(rows):,}",
            "Give one for each event, or none for the user.",
        )
    times_E[np.repeat(timed_U, length_U)] = flat.to_numpy(zero_copy_only=False)
    return times_E, timed_U


def _as_strings(values: pa.Array) -> pa.Array:
    import pyarrow as pa

    return values.cast(pa.string())


def _wrong(path: Path, what: str) -> UserError:
    return UserError(
        what,
        str(path),
        "One row a user: user_id (text), history (list of item ids, oldest first), and, if known, timestamps (list of "
        "seconds).",
    )
