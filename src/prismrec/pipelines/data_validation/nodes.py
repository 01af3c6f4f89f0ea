"""Nodes of `data_validation`; `prismrec.data` does the work, imported when a node runs.

Annotations are real types, not strings under TYPE_CHECKING: Kedro reads them to build the parameters.
"""

from typing import Any

import polars as pl

from prismrec.data.forget import FORGOTTEN, count_rows, leave_out, leave_out_of_truth, requested
from prismrec.parameters.data_validation import DataValidationParameters


def read_source(
    parameters: DataValidationParameters, forgotten_users: dict[str, Any] | None
) -> tuple[pl.LazyFrame, pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Return raw interactions, raw items, planted truth and facts of the source, without users to forget."""
    from prismrec.data import sources

    tables = sources.read_source(parameters)
    users = requested(forgotten_users)
    if not users:
        return tables
    rows = count_rows(tables.interactions, users)
    return (
        leave_out(tables.interactions, users),
        tables.items,
        leave_out_of_truth(tables.planted_truth, users),
        {**tables.facts, FORGOTTEN: {"users": len(users), "rows": sum(rows.values())}},
    )


def validate_tables(
    raw_interactions: pl.LazyFrame, raw_items: pl.DataFrame, parameters: DataValidationParameters
) -> tuple[pl.LazyFrame, pl.DataFrame, pl.LazyFrame]:
    """Return validated interactions, validated items and the quarantine; stop past the threshold."""
    from prismrec.data import validation

    return validation.validate_tables(raw_interactions, raw_items, parameters)


def build_reports(
    raw_interactions: pl.LazyFrame,
    raw_items: pl.DataFrame,
    validated_interactions: pl.LazyFrame,
    validated_items: pl.DataFrame,
    quarantine: pl.LazyFrame,
    source_facts: dict[str, Any],
    previous_data_profile: dict[str, Any] | None,
    parameters: DataValidationParameters,
) -> tuple[dict[str, Any], str, dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """Describe what was written; return report, page, Data Docs, metrics and the profile of this version."""
    from prismrec.data import report
    from prismrec.data.contract import INTERACTIONS, ITEMS
    from prismrec.data.validation import ValidatedTables

    events = int(raw_interactions.select(pl.len()).collect(engine="streaming").item())
    return report.build_reports(
        {INTERACTIONS: events, ITEMS: len(raw_items)},
        ValidatedTables(validated_interactions, validated_items, quarantine),
        source_facts,
        previous_data_profile,
        parameters,
    )
