"""Great Expectations over the validated tables: the contract's second, independent opinion.

Suites are built from the contract, in Python. Great Expectations has no polars engine, so the needed
columns go to its pandas engine as Arrow-backed pandas; beyond `row_check_limit` rows polars counts the
broken rows of every rule as a stream, and the expectations see that one-row table instead. The result says which of
the two was done. Runs offline: analytics and progress bars are off, nothing is kept but what is returned.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from prismrec.data.contract import Contract, Expectation, Rule
from prismrec.data.validation import count_broken

if TYPE_CHECKING:
    import pandas as pd

EVERY_ROW = "every row, in pandas"
COUNTS = "counts per rule, made by polars"
# Names the pages of the Data Docs; fixed, so that two runs write pages of the same names.
RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)
RUN_NAME = "data_validation"
# Animations of Great Expectations' own tutorial: 3 MB that no page of ours shows.
LEFT_OUT_SUFFIX = ".gif"


@dataclass(frozen=True)
class ExpectationResult:
    """The verdict on one expectation."""

    rule: str
    kind: str
    severity: str
    success: bool
    checked_rows: int
    unexpected_rows: int


class SuiteResult(NamedTuple):
    """The verdict on one table: how it was computed, and every expectation's result."""

    table: str
    computed: str
    results: tuple[ExpectationResult, ...]

    @property
    def passed(self) -> bool:
        """Whether all but the warnings hold."""
        return all(result.success for result in self.results if result.severity != "warning")


class Checks(NamedTuple):
    """All suites' verdicts, and the Data Docs as bytes by relative file name."""

    suites: tuple[SuiteResult, ...]
    docs: dict[str, bytes]


def run_expectations(tables: Sequence[tuple[Contract, pl.LazyFrame]], row_check_limit: int) -> Checks:
    """Run each contract's suite over its validated table and build the Data Docs."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # before the import, which already reads it
    import great_expectations as gx

    with tempfile.TemporaryDirectory() as folder:
        context = gx.get_context(mode="ephemeral", project_config=_project(folder))
        suites = tuple(_run_suite(context, contract, validated, row_check_limit) for contract, validated in tables)
        context.build_data_docs()
        pages = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        docs = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in pages if path.suffix != LEFT_OUT_SUFFIX
        }
    return Checks(suites, docs)


def _project(docs_folder: str) -> Any:
    """Everything in memory but the Data Docs; silent and offline."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    site = {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": docs_folder},
    }
    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites={"site": site},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )


def _run_suite(context: Any, contract: Contract, validated: pl.LazyFrame, row_check_limit: int) -> SuiteResult:
    import great_expectations as gx

    rows = int(validated.select(pl.len()).collect(engine="streaming").item())
    every_row = rows <= row_check_limit
    rules = [rule for rule in contract.rules if rule.expectations]
    frame = _checked_columns(contract, validated) if every_row else _rule_counts(contract, validated, rules)
    expectations = [
        _build(rule, expectation)
        for rule in rules
        for expectation in (rule.expectations if every_row else (_none_broken(rule),))
    ]
    suite = context.suites.add(gx.ExpectationSuite(contract.table, expectations=expectations))
    asset = context.data_sources.add_pandas(contract.table).add_dataframe_asset(contract.table)
    data = asset.add_batch_definition_whole_dataframe("all rows" if every_row else "counts per rule")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=contract.table, data=data, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=contract.table, validation_definitions=[definition], result_format="BASIC")
    )
    outcome = checkpoint.run(
        batch_parameters={"dataframe": frame},
        run_id=gx.RunIdentifier(run_name=RUN_NAME, run_time=RUN_TIME),
    )
    (run,) = outcome.run_results.values()
    results = sorted((_read(result) for result in run.results), key=lambda r: (r.rule, r.kind))
    return SuiteResult(contract.table, EVERY_ROW if every_row else COUNTS, tuple(results))


def _checked_columns(contract: Contract, validated: pl.LazyFrame) -> "pd.DataFrame":
    columns = [expression.alias(name) for name, expression in contract.checked.items()]
    return validated.select(columns).collect(engine="streaming").to_pandas(use_pyarrow_extension_array=True)


def _rule_counts(contract: Contract, validated: pl.LazyFrame, rules: list[Rule]) -> "pd.DataFrame":
    return pl.DataFrame(count_broken(validated, contract, rules)).to_pandas()


def _none_broken(rule: Rule) -> Expectation:
    return Expectation("ExpectColumnValuesToBeBetween", {"column": rule.name, "min_value": 0, "max_value": 0})


def _build(rule: Rule, expectation: Expectation) -> Any:
    import great_expectations as gx

    return getattr(gx.expectations, expectation.kind)(
        **expectation.arguments,
        severity="warning" if rule.severity == "warn" else "critical",
        notes=rule.sentence,
        meta={"rule": rule.name},
    )


def _read(result: Any) -> ExpectationResult:
    config = result.expectation_config
    assert not result.exception_info.get("raised_exception"), result.exception_info
    return ExpectationResult(
        rule=config.meta["rule"],
        kind=config.type,
        severity=str(getattr(config.severity, "value", config.severity)),
        success=bool(result.success),
        checked_rows=int(result.result["element_count"]),
        unexpected_rows=int(result.result["unexpected_count"]),
    )
