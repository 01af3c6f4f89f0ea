"""Histories and cut points as flat numpy arrays (CSR), the shape in which models read them.

Our choice: compressed rows instead of padded matrices or Python lists, so that 10 million events are
three arrays. This module imports numpy alone, for the serving engine may read it too; polars is
imported when a frame is converted.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]


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
    def lengths(self) -> Int64Array:
        """Events of each user, int64 [U]."""
        return np.diff(self.offsets)

    @classmethod
    def from_frame(cls, frame: "pl.DataFrame") -> "Histories":
        """Flatten the `histories` table (see `prismrec.data.schema.HISTORIES`)."""
        import polars as pl

        from prismrec.data.schema import ITEM_INDICES, TIMESTAMPS, USER_INDEX

        lengths = frame.get_column(ITEM_INDICES).list.len().cast(pl.Int64).to_numpy()
        assert (lengths > 0).all(), "an active user has at least one event"
        return cls(
            user_index_U=frame.get_column(USER_INDEX).to_numpy(),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
            items=frame.get_column(ITEM_INDICES).explode().to_numpy(),
            timestamps=frame.get_column(TIMESTAMPS).explode().to_numpy(),
        )


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
