"""Histories and cut points as flat numpy arrays (CSR), the shape in which models read them.

Our choices: compressed rows instead of padded matrices or lists, so that 100 million events are three arrays; on
disk one `.npy` file an array, because that maps into memory as it lies: opening decodes nothing, a user's events are
two array look-ups away, and processes that open the same folder share its pages. This module imports numpy alone,
for the serving engine may read it too; polars is imported when a frame is converted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

BLOCK = 4_000_000  # events looked at together

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]


def blocks(offsets: Int64Array, events: int) -> Iterator[slice]:
    """Ranges of rows that hold about `events` events each, one row at least: for work in bounded memory."""
    first, rows = 0, len(offsets) - 1
    while first < rows:
        last = int(np.searchsorted(offsets, offsets[first] + events, side="right")) - 1
        last = max(last, first + 1)
        yield slice(first, last)
        first = last


@dataclass(frozen=True)
class Histories:
    """Every active user's history, oldest event first.

    Attributes:
        user_index_U: int32, ascending; row u of everything here belongs to this user.
        offsets: int64 [U + 1]; the events of row u are [offsets[u], offsets[u + 1]).
        items: int32 [E], item indices.
        timestamps: int64 [E], seconds since 1970 UTC.
    """

    user_index_U: Int32Array
    offsets: Int64Array
    items: Int32Array
    timestamps: Int64Array

    def __len__(self) -> int:
        """Number of users."""
        return len(self.user_index_U)

    @property
    def timed(self) -> bool:
        """Whether times are known: where a source has none, all events stand at one."""
        times_E = self.timestamps
        return len(times_E) > 0 and bool(times_E.min() != times_E.max())

    @property
    def lengths(self) -> Int64Array:
        """Events of each user, int64 [U]."""
        return np.diff(self.offsets)

    def of(self, row: int) -> tuple[Int32Array, Int64Array]:
        """Items and times of the user of one row, as views: nothing is copied."""
        events = slice(self.offsets[row], self.offsets[row + 1])
        return self.items[events], self.timestamps[events]

    @classmethod
    def from_lists(
        cls, items: Sequence[Sequence[int]], timestamps: Sequence[Sequence[int]] | None = None
    ) -> "Histories":
        """Histories of users 0, 1, …, for small data; without times an event's time is its place."""
        times = timestamps if timestamps is not None else [range(len(row)) for row in items]
        return cls(
            user_index_U=np.arange(len(items), dtype=np.int32),
            offsets=np.cumsum([0, *map(len, items)], dtype=np.int64),
            items=np.array([item for row in items for item in row], dtype=np.int32),
            timestamps=np.array([time for row in times for time in row], dtype=np.int64),
        )

    def save(self, folder: Path) -> None:
        """Write one `.npy` file an array into a new folder."""
        folder.mkdir(parents=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Histories":
        """Map the arrays of a folder into memory, read-only."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names))


def trained_items(histories: Histories, train_end_U: Int32Array, num_items: int) -> NDArray[np.bool_]:
    """Which items occur in anybody's training events: bool [N]."""
    trained_N = np.zeros(num_items, np.bool_)
    for rows in blocks(histories.offsets, BLOCK):
        first, last = histories.offsets[rows.start], histories.offsets[rows.stop]
        ends = histories.offsets[:-1][rows] + train_end_U[rows]
        trained = np.arange(first, last) < np.repeat(ends, histories.lengths[rows])
        trained_N[histories.items[first:last][trained]] = True
    return trained_N


@dataclass(frozen=True)
class SplitPoints:
    """Cut points of any protocol, int32 [U], in the row order of `Histories`.

    Targets are the events [start, end); an empty range is no case; all events before start are the history.

    Attributes:
        train_end_U: the training events of row u are positions [0, train_end).
        validation_start_U: position of the first validation target.
        validation_end_U: position after the last one.
        test_start_U: position of the first test target.
        test_end_U: position after the last one.
    """

    train_end_U: Int32Array
    validation_start_U: Int32Array
    validation_end_U: Int32Array
    test_start_U: Int32Array
    test_end_U: Int32Array

    def __len__(self) -> int:
        """Number of users."""
        return len(self.train_end_U)

    @classmethod
    def from_frame(cls, frame: "pl.DataFrame") -> "SplitPoints":
        """Read the `splits` table (see `prismrec.data.schema.SPLITS`)."""
        from prismrec.data.splits import CUT_POINTS

        return cls(*(frame.get_column(column).to_numpy() for column in CUT_POINTS))
