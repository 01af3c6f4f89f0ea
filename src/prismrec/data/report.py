"""The validation report: what came in, what was refused and why, what is odd, what moved, what the data look like.

Our choices: everything is computed from the written tables alone, so that the same tables give the same bytes (no time
of day anywhere); users have pseudonyms in examples; what Great Expectations says is part of it; that no row vanished is
asserted here, over what lies on the disk.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from prismrec.data import schema
from prismrec.data.contract import INTERACTIONS, ITEMS, Contract, Rule, interactions_contract, items_contract
from prismrec.data.drift import compare
from prismrec.data.expectations import SuiteResult, run_expectations
from prismrec.data.profile import Figures, count_figures, make_profile
from prismrec.data.pseudonyms import Pseudonyms
from prismrec.data.report_page import render_page
from prismrec.data.validation import ValidatedTables, count_broken, count_rules, show_row
from prismrec.data.watches import Watch
from prismrec.parameters.data_validation import DataValidationParameters

MEND_DRIFT = (
    "check that the source is whole and of the same meaning; or raise data_validation.drift_change, drift_index"
)


class Reports(NamedTuple):
    """The report as JSON and as a page, the Data Docs' files, the stage's metrics, and the profile to compare with."""

    report: dict[str, Any]
    page: str
    data_docs: dict[str, bytes]
    metrics: dict[str, Any]
    profile: dict[str, Any]


def build_reports(
    raw_rows: Mapping[str, int],
    tables: ValidatedTables,
    facts: Mapping[str, Any],
    previous_profile: Mapping[str, Any] | None,
    parameters: DataValidationParameters,
) -> Reports:
    """Describe one validation.

    Args:
        raw_rows: rows that came in, by table name.
        tables: what came out.
        facts: what the source says about its reading.
        previous_profile: that of the last accepted version, if any.
        parameters: those of the validation.
    """
    contracts = {
        ITEMS: items_contract(parameters),
        INTERACTIONS: interactions_contract(parameters, tables.items.get_column(schema.ITEM_ID)),
    }
    validated = {ITEMS: tables.items.lazy(), INTERACTIONS: tables.interactions}
    checks = run_expectations([(contracts[name], validated[name]) for name in contracts], parameters.row_check_limit)
    for suite in checks.suites:
        assert suite.passed, f"the contract's two readings of {suite.table} disagree: {suite.results}"
    figures = count_figures(tables.interactions, tables.items, parameters.burst_events)
    figures = figures._replace(doubted_unit=doubted_unit(facts))
    profile = make_profile(figures)
    report = {
        "source": parameters.source,
        "facts": dict(facts),
        "tables": {
            suite.table: {
                **_account(raw_rows[suite.table], validated[suite.table], tables.quarantine, suite.table),
                "rules": _rules(
                    contracts[suite.table], validated[suite.table], tables.quarantine, parameters, figures.pseudonyms
                ),
                "watches": [_watched(watch, figures, parameters) for watch in contracts[suite.table].watches],
                "expectations": _expectations(suite),
            }
            for suite in checks.suites
        },
        "drift": compare(previous_profile, profile, parameters),
        "profile": profile,
    }
    report["warnings"] = list_warnings(report)
    return Reports(report, render_page(report), checks.docs, _metrics(report), profile)


def doubted_unit(facts: Mapping[str, Any]) -> str:
    """What a source says of a declared unit of times that its first rows do not look like; empty if it has no doubt."""
    time = facts.get("interactions", {}).get("time", {})
    doubt = "looks_like" in time
    return f"{time['unit']} is declared, the first rows look like {time['looks_like']}" if doubt else ""


def times_known(facts: Mapping[str, Any]) -> bool:
    """Whether a source has times, and not the places of rows in their stead."""
    return bool(facts.get("interactions", {}).get("time", {}).get("known", True))


def _account(rows_in: int, validated: pl.LazyFrame, quarantine: pl.LazyFrame, table: str) -> dict[str, Any]:
    """Count the written rows; one that is nowhere, or in two places, is a bug."""
    rows_out, quarantined = _rows(validated), _rows(quarantine.filter(pl.col("table") == table))
    assert rows_in == rows_out + quarantined, f"{table}: {rows_in} rows in, {rows_out} out, {quarantined} quarantined"
    return {
        "rows_in": rows_in,
        "rows_out": rows_out,
        "rows_quarantined": quarantined,
        "quarantined_share": round(quarantined / rows_in, 6),
    }


def _rows(table: pl.LazyFrame) -> int:
    return int(table.select(pl.len()).collect(engine="streaming").item())


def _rules(
    contract: Contract,
    validated: pl.LazyFrame,
    quarantine: pl.LazyFrame,
    parameters: DataValidationParameters,
    pseudonyms: Pseudonyms,
) -> list[dict[str, Any]]:
    own = quarantine.filter(pl.col("table") == contract.table)
    warning = [rule for rule in contract.rules if rule.severity == "warn"]
    # Rows with a warning stay in the table; their count is the report's only trace of them.
    counts = {**count_rules(own), **(count_broken(validated, contract, warning) if warning else {})}
    examples = parameters.examples_per_rule
    return [_rule(rule, counts.get(rule.name, 0), own, examples, pseudonyms) for rule in contract.rules]


def _rule(rule: Rule, rows: int, quarantine: pl.LazyFrame, examples: int, pseudonyms: Pseudonyms) -> dict[str, Any]:
    described = {"name": rule.name, "severity": rule.severity, "sentence": rule.sentence, "mend": rule.mend}
    if not rows or rule.severity == "warn":
        return {**described, "rows": rows, "examples": []}
    broken = quarantine.filter(pl.col("rules").list.contains(rule.name)).head(examples).collect(engine="streaming")
    shown = [
        {"where": f"{row[schema.SOURCE_FILE]}, row {row[schema.SOURCE_ROW]}", "row": show_row(row["row"], pseudonyms)}
        for row in broken.iter_rows(named=True)
    ]
    return {**described, "rows": rows, "examples": shown}


def _watched(watch: Watch, figures: Figures, parameters: DataValidationParameters) -> dict[str, Any]:
    found = watch.find(figures, parameters)
    return {
        "name": watch.name,
        "sentence": watch.sentence,
        "mend": watch.mend,
        "count": found.number,
        "detail": found.detail if found.number else "",
    }


def _expectations(suite: SuiteResult) -> dict[str, Any]:
    return {
        "computed": suite.computed,
        "passed": suite.passed,
        "results": [dict(vars(result)) for result in suite.results],
    }


def list_warnings(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Everything that was found odd, of both tables and of drift, which has no count."""
    warnings = []
    for table, found in report["tables"].items():
        rules = [{**rule, "count": rule["rows"], "detail": ""} for rule in found["rules"] if rule["severity"] == "warn"]
        warnings += [{"table": table, **w} for w in (*rules, *found["watches"]) if w["count"]]
    moved = [measure for measure in report["drift"] or [] if measure["moved"]]
    warnings += [
        {
            "table": "drift",
            "name": measure["what"].replace(" ", "_"),
            "count": None,
            "sentence": f"The {measure['what'].replace('_', ' ')} moved since the last accepted version.",
            "detail": _change(measure),
            "mend": MEND_DRIFT,
        }
        for measure in moved
    ]
    kept = ("table", "name", "count", "sentence", "detail", "mend")
    return [{key: warning[key] for key in kept} for warning in warnings]


def _change(measure: Mapping[str, Any]) -> str:
    if measure["index"]:
        return f"population stability index {measure['change']:.3f}"
    change = "" if measure["change"] is None else f" ({measure['change']:+.1%})"
    return f"from {measure['before']:,.10g} to {measure['now']:,.10g}{change}"


def _metrics(report: dict[str, Any]) -> dict[str, Any]:
    """The report's numbers, flat."""
    metrics: dict[str, Any] = {}
    for name, table in report["tables"].items():
        for key in ("rows_in", "rows_out", "rows_quarantined", "quarantined_share"):
            metrics[f"{name}_{key}"] = table[key]
        metrics |= {f"{name}_{rule['name']}": rule["rows"] for rule in table["rules"]}
        metrics |= {f"{name}_{watch['name']}": watch["count"] for watch in table["watches"]}
        metrics[f"{name}_expectations_computed"] = table["expectations"]["computed"]
        metrics[f"{name}_expectations"] = len(table["expectations"]["results"])
    metrics["times_known"] = times_known(report["facts"])
    metrics["warnings"] = len(report["warnings"])
    metrics["figures_that_moved"] = sum(measure["moved"] for measure in report["drift"] or [])
    return metrics | {key: report["profile"][key] for key in ("events", "users", "items_with_events")}
