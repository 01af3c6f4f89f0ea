"""Small tables and parameters that the tests of the data room share."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prismrec.data import schema
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
        [(*row, ["shelf"], "items.csv", number) for number, row in enumerate(rows)],
        schema=schema.RAW_ITEMS,
        orient="row",
    )


def raw_interactions(*rows: tuple[str | None, str | None, int | None]) -> pl.DataFrame:
    """Rows of (user_id, item_id, timestamp)."""
    return pl.DataFrame(
        [(*row, "interactions.csv", number) for number, row in enumerate(rows)],
        schema=schema.RAW_INTERACTIONS,
        orient="row",
    )


def events(*rows: tuple[str, str, int]) -> pl.DataFrame:
    """Validated rows of (user_id, item_id, timestamp), numbered as they come."""
    return pl.DataFrame(
        [(*row, number) for number, row in enumerate(rows)],
        schema=schema.VALIDATED_INTERACTIONS,
        orient="row",
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
