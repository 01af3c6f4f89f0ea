"""The validation report: what came in, what was refused and why, and what the data look like.

Our choices: everything is computed from the tables alone, so that the same tables give the same bytes
(no time of day anywhere); user ids are hashed in examples; what Great Expectations says is part of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from prismrec.data import schema
from prismrec.data.contract import INTERACTIONS, ITEMS, Contract, Rule, interactions_contract, items_contract
from prismrec.data.expectations import SuiteResult, run_expectations
from prismrec.data.report_page import render_page
from prismrec.data.validation import ValidatedTables, count_rules, show_row
from prismrec.parameters.data_validation import DataValidationParameters

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


class Reports(NamedTuple):
    """The report as JSON and as a page, the Data Docs' files, and the stage's metrics."""

    report: dict[str, Any]
    page: str
    data_docs: dict[str, bytes]
    metrics: dict[str, Any]


def build_reports(raw_rows: dict[str, int], tables: ValidatedTables, parameters: DataValidationParameters) -> Reports:
    """Describe one validation.

    Args:
        raw_rows: rows that came in, by table name.
        tables: what came out.
        parameters: those of the validation.
    """
    contracts = {
        ITEMS: items_contract(),
        INTERACTIONS: interactions_contract(parameters, tables.items.get_column(schema.ITEM_ID)),
    }
    validated = {ITEMS: tables.items, INTERACTIONS: tables.interactions}
    checks = run_expectations([(contracts[name], validated[name]) for name in contracts], parameters.row_check_limit)
    for suite in checks.suites:
        assert suite.passed, f"the contract's two readings of {suite.table} disagree: {suite.results}"
    report = {
        "source": parameters.source,
        "tables": {
            suite.table: _table_report(
                contracts[suite.table], raw_rows[suite.table], validated[suite.table], tables.quarantine,
                suite, parameters.examples_per_rule,
            )
            for suite in checks.suites
        },
        "profile": profile(tables.interactions),
    }  # fmt: skip
    return Reports(report, render_page(report), checks.docs, _metrics(report))


def profile(interactions: pl.DataFrame) -> dict[str, Any]:
    """Users, items, time span (seconds), and quantiles of history length and popularity (events)."""
    time = interactions.get_column(schema.TIMESTAMP)
    return {
        "events": len(interactions),
        "users": interactions.get_column(schema.USER_ID).n_unique(),
        "items_with_events": interactions.get_column(schema.ITEM_ID).n_unique(),
        "first_timestamp": time.min(),
        "last_timestamp": time.max(),
        "history_length": _group_sizes(interactions, schema.USER_ID),
        "popularity": _group_sizes(interactions, schema.ITEM_ID),
    }


def _group_sizes(interactions: pl.DataFrame, column: str) -> dict[str, float]:
    sizes = interactions.group_by(column).len().get_column("len")
    # The sum first: a mean over an unordered group_by could differ in its last bit from run to run.
    quantiles = {f"p{round(100 * q)}": float(sizes.quantile(q, "lower") or 0) for q in QUANTILES}
    return {"mean": round(len(interactions) / len(sizes), 3), **quantiles}


def _table_report(
    contract: Contract,
    rows_in: int,
    validated: pl.DataFrame,
    quarantine: pl.DataFrame,
    suite: SuiteResult,
    examples: int,
) -> dict[str, Any]:
    own = quarantine.filter(pl.col("table") == contract.table)
    counts = count_rules(own)
    return {
        "rows_in": rows_in,
        "rows_out": len(validated),
        "rows_quarantined": len(own),
        "quarantined_share": round(len(own) / rows_in, 6),
        "rules": [
            _warning_report(rule, validated)
            if rule.severity == "warn"
            else _rule_report(rule, counts.get(rule.name, 0), own, examples)
            for rule in contract.rules
        ],
        "expectations": {
            "computed": suite.computed,
            "passed": suite.passed,
            "results": [dict(vars(result)) for result in suite.results],
        },
    }


def _rule_report(rule: Rule, rows: int, quarantine: pl.DataFrame, examples: int) -> dict[str, Any]:
    broken = quarantine.filter(pl.col("rules").list.contains(rule.name)).head(examples)
    return {
        **_describe(rule),
        "rows": rows,
        "examples": [
            {"where": f"{row[schema.SOURCE_FILE]}, row {row[schema.SOURCE_ROW]}", "row": show_row(row["row"])}
            for row in broken.iter_rows(named=True)
        ],
    }


def _warning_report(rule: Rule, validated: pl.DataFrame) -> dict[str, Any]:
    """Rows with a warning stay in the table; their count is the report's only trace of them."""
    rows = validated.select(rule.broken.fill_null(False).sum()).item()
    return {**_describe(rule), "rows": rows, "examples": []}


def _describe(rule: Rule) -> dict[str, str]:
    return {"name": rule.name, "severity": rule.severity, "sentence": rule.sentence}


def _metrics(report: dict[str, Any]) -> dict[str, Any]:
    """The report's numbers, flat."""
    metrics: dict[str, Any] = {}
    for name, table in report["tables"].items():
        for key in ("rows_in", "rows_out", "rows_quarantined", "quarantined_share"):
            metrics[f"{name}_{key}"] = table[key]
        metrics |= {f"{name}_{rule['name']}": rule["rows"] for rule in table["rules"]}
        metrics[f"{name}_expectations_computed"] = table["expectations"]["computed"]
        metrics[f"{name}_expectations"] = len(table["expectations"]["results"])
    users_events: Sequence[str] = ("events", "users", "items_with_events")
    return metrics | {key: report["profile"][key] for key in users_events}
