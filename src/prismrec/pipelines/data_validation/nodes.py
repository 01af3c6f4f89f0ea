"""Nodes of `data_validation`; `prismrec.data` does the work, imported when a node runs.

Annotations are real types, not strings under TYPE_CHECKING: Kedro reads them to build the parameters.
"""

from typing import Any

import polars as pl

from prismrec.parameters.data_validation import DataValidationParameters


def read_source(parameters: DataValidationParameters) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return raw interactions, raw items and planted truth of the configured source."""
    from prismrec.data import sources

    return sources.read_source(parameters)


def validate_tables(
    raw_interactions: pl.DataFrame, raw_items: pl.DataFrame, parameters: DataValidationParameters
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return validated interactions, validated items and the quarantine; stop past the threshold."""
    from prismrec.data import validation

    return validation.validate_tables(raw_interactions, raw_items, parameters)


def build_reports(
    raw_interactions: pl.DataFrame,
    raw_items: pl.DataFrame,
    validated_interactions: pl.DataFrame,
    validated_items: pl.DataFrame,
    quarantine: pl.DataFrame,
    parameters: DataValidationParameters,
) -> tuple[dict[str, Any], str, dict[str, bytes], dict[str, Any]]:
    """Check the validated tables with Great Expectations; return report, page, Data Docs and metrics."""
    from prismrec.data import report
    from prismrec.data.contract import INTERACTIONS, ITEMS
    from prismrec.data.validation import ValidatedTables

    return report.build_reports(
        {INTERACTIONS: len(raw_interactions), ITEMS: len(raw_items)},
        ValidatedTables(validated_interactions, validated_items, quarantine),
        parameters,
    )
