"""The tables of the data stages: the only source of column names and polars schemas.

Ids stay the strings the source gave; indices are int32 and append-only; timestamps are int64 seconds
since 1970-01-01 UTC. Our choice: one constant a column, so that a misspelt name is an import error.
"""

from typing import Any, TypeVar

import polars as pl

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
EVENT = "event"
WEIGHT = "weight"
SOURCE_FILE = "source_file"
SOURCE_ROW = "source_row"
PROBLEM = "problem"
AS_GIVEN = "as_given"
TITLE = "title"
TEXT = "text"
CATEGORIES = "categories"
USER_INDEX = "user_index"
ITEM_INDEX = "item_index"
ACTIVE = "active"
TRAIN_END = "train_end"
VALIDATION_START = "validation_start"
VALIDATION_END = "validation_end"
TEST_START = "test_start"
TEST_END = "test_end"

# List types are typed loosely: mypy cannot see a schema that mixes classes and instances.
STRING_LIST: Any = pl.List(pl.String)

# What a source returns, files and rows in order: this order breaks ties of time. `source_row` counts a file's rows
# from 0, the header not counted. `problem` names why a row could not be read, and `as_given` is its text wherever
# something in it could not be read; both are null otherwise. `event` (view, purchase, …) and `weight` (stars,
# seconds, …) are null where the source has none.
RAW_INTERACTIONS = pl.Schema(
    {
        USER_ID: pl.String,
        ITEM_ID: pl.String,
        TIMESTAMP: pl.Int64,
        EVENT: pl.String,
        WEIGHT: pl.Float64,
        SOURCE_FILE: pl.String,
        SOURCE_ROW: pl.Int64,
        PROBLEM: pl.String,
        AS_GIVEN: pl.String,
    }
)
RAW_ITEMS = pl.Schema(
    {
        ITEM_ID: pl.String,
        TITLE: pl.String,
        TEXT: pl.String,
        CATEGORIES: STRING_LIST,
        SOURCE_FILE: pl.String,
        SOURCE_ROW: pl.Int64,
        PROBLEM: pl.String,
        AS_GIVEN: pl.String,
    }
)
# What the synthetic world knows about itself: kind is "user" or "item", weights of one id sum to 1.
PLANTED_TRUTH = pl.Schema({"kind": pl.String, "id": pl.String, "interest": pl.String, "weight": pl.Float64})

# In the raw table's order.
VALIDATED_INTERACTIONS = pl.Schema(
    {USER_ID: pl.String, ITEM_ID: pl.String, TIMESTAMP: pl.Int64, EVENT: pl.String, WEIGHT: pl.Float64}
)
VALIDATED_ITEMS = pl.Schema({ITEM_ID: pl.String, TITLE: pl.String, TEXT: pl.String, CATEGORIES: STRING_LIST})
# `row` is the refused row as JSON; `rules` names every rule it breaks.
QUARANTINE = pl.Schema(
    {
        "table": pl.String,
        SOURCE_FILE: pl.String,
        SOURCE_ROW: pl.Int64,
        "rules": STRING_LIST,
        "severity": pl.String,
        "row": pl.String,
    }
)

ITEM_MAP = pl.Schema(
    {
        ITEM_INDEX: pl.Int32,
        ITEM_ID: pl.String,
        TITLE: pl.String,
        TEXT: pl.String,
        CATEGORIES: STRING_LIST,
        ACTIVE: pl.Boolean,
    }
)
USER_MAP = pl.Schema({USER_INDEX: pl.Int32, USER_ID: pl.String, ACTIVE: pl.Boolean})
# Positions in a user's history; targets are [start, end), the history is all before start.
SPLITS = pl.Schema(
    {
        USER_INDEX: pl.Int32,
        TRAIN_END: pl.Int32,
        VALIDATION_START: pl.Int32,
        VALIDATION_END: pl.Int32,
        TEST_START: pl.Int32,
        TEST_END: pl.Int32,
    }
)


def conform(frame: Frame, schema: pl.Schema) -> Frame:
    """Return `frame` with exactly the columns of `schema`, in order and cast.

    A value that does not fit its type is a bug of ours, and polars raises.
    """
    return frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
