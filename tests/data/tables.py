"""Small tables and parameters that the tests of the data room share."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prismrec.data import schema
from prismrec.data.histories import Histories
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sequence_building import SequenceBuildingParameters

DATA_ROOT = Path(os.environ.get("PRISMREC_DATA_ROOT", Path(__file__).parents[3] / "shared" / "data"))


def validation_parameters(**changes: Any) -> DataValidationParameters:
    return DataValidationParameters(**{"seed": 7, "source": "synthetic", "data_root": "unused", **changes})


def sequence_parameters(**changes: Any) -> SequenceBuildingParameters:
    return SequenceBuildingParameters(**{"seed": 7, **changes})


def raw_items(*rows: tuple[str | None, str | None, str]) -> pl.DataFrame:
    """Rows of (item_id, title, text)."""
    return pl.DataFrame(
        [(*row, ["shelf"], "items.csv", number, None, None) for number, row in enumerate(rows)],
        schema=schema.RAW_ITEMS,
        orient="row",
    )


def raw_interactions(*rows: tuple[str | None, str | None, int | None]) -> pl.DataFrame:
    """Rows of (user_id, item_id, timestamp)."""
    return pl.DataFrame(
        [(*row, None, None, "interactions.csv", number, None, None) for number, row in enumerate(rows)],
        schema=schema.RAW_INTERACTIONS,
        orient="row",
    )


def events(*rows: tuple[str, str, int]) -> pl.LazyFrame:
    """Validated rows of (user_id, item_id, timestamp)."""
    return pl.DataFrame(
        [(*row, None, None) for row in rows],
        schema=schema.VALIDATED_INTERACTIONS,
        orient="row",
    ).lazy()


def as_lists(histories: Histories) -> pl.DataFrame:
    """Histories as a table of lists, one row a user."""
    rows = [histories.of(row) for row in range(len(histories))]
    return pl.DataFrame(
        {
            "user_index": histories.user_index_U,
            "item_indices": [items.tolist() for items, _ in rows],
            "timestamps": [times.tolist() for _, times in rows],
        },
        schema={"user_index": pl.Int32, "item_indices": pl.List(pl.Int32), "timestamps": pl.List(pl.Int64)},
    )


def items(*ids: str) -> pl.DataFrame:
    """Validated items titled by their ids."""
    return pl.DataFrame(
        [(name, f"Title {name}", "text", ["shelf"]) for name in ids],
        schema=schema.VALIDATED_ITEMS,
        orient="row",
    )


def real_data(folder: str) -> Path:
    """A folder of real data, or a skip that says where it was looked for."""
    path = DATA_ROOT / folder
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set PRISMREC_DATA_ROOT")
    return path
