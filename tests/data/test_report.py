"""The report: figures, escaping, privacy, determinism, and Great Expectations as a second opinion."""

import json
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest

from data.tables import raw_interactions, raw_items, validation_parameters
from prismrec.data import schema
from prismrec.data.contract import INTERACTIONS, ITEMS, interactions_contract, items_contract
from prismrec.data.expectations import COUNTS, EVERY_ROW, Checks, run_expectations
from prismrec.data.report import Reports, build_reports
from prismrec.data.validation import validate_tables

EVIL = "<script>alert(1)</script>"
PARAMETERS = validation_parameters(max_quarantined_share=1.0)
RAW_ITEMS = raw_items(("a", "Alpha", "text"), ("b", f"Beta {EVIL}", ""), ("b", f"Again {EVIL}", ""))
RAW_INTERACTIONS = raw_interactions(
    ("ada@example.org", "a", 100),
    ("ada@example.org", "b", 86_500),
    ("bob", "a", 300),
    ("ada@example.org", EVIL, 1),
).lazy()


ROWS = {INTERACTIONS: 4, ITEMS: 3}
FACTS = {
    "time": {"unit": "ms", "how": "detected"},
    "files": [{"name": EVIL, "bytes": 81}],
    "forgotten": {"users": 1, "rows": 7},
}


def reports(previous: dict[str, Any] | None = None) -> Reports:
    tables = validate_tables(RAW_INTERACTIONS, RAW_ITEMS, PARAMETERS)
    return build_reports(ROWS, tables, FACTS, previous, PARAMETERS)


@pytest.fixture(scope="module")
def made() -> Reports:
    return reports()


def report_of(made: Reports, watch: str) -> dict[str, Any]:
    return report_of_name(made.report, watch)


def report_of_name(report: dict[str, Any], watch: str) -> dict[str, Any]:
    (found,) = [w for w in report["tables"]["interactions"]["watches"] if w["name"] == watch]
    return found


def test_figures(made: Reports) -> None:
    table = made.report["tables"]["interactions"]
    assert (table["rows_in"], table["rows_out"], table["rows_quarantined"]) == (4, 3, 1)
    assert table["quarantined_share"] == 0.25
    rules = {rule["name"]: rule for rule in table["rules"]}
    assert rules["unknown_item"]["rows"] == 1
    assert rules["unknown_item"]["examples"][0]["where"] == "interactions.csv, row 3"
    assert rules["missing_time"]["rows"] == 0
    assert report_of(made, "users_with_one_event")["count"] == 1
    warnings = {r["name"]: r["rows"] for r in made.report["tables"]["items"]["rules"] if r["severity"] == "warn"}
    assert warnings == {"item_without_text": 1}
    profile = made.report["profile"]
    assert (profile["users"], profile["events"], profile["last_timestamp"]) == (2, 3, 86_500)
    assert profile["history_length"]["mean"] == 1.5
    assert (profile["popularity"]["p0"], profile["popularity"]["p100"]) == (1, 2)
    assert made.metrics["interactions_unknown_item"] == 1
    assert made.metrics["items_rows_quarantined"] == 1


def test_great_expectations_agrees_and_says_how_it_looked(made: Reports) -> None:
    for table in made.report["tables"].values():
        assert table["expectations"]["passed"]
        assert table["expectations"]["computed"] == EVERY_ROW
    results = made.report["tables"]["items"]["expectations"]["results"]
    assert [(r["rule"], r["severity"]) for r in results if not r["success"]] == [("item_without_text", "warning")]


def test_reports_are_deterministic_and_plain_data(made: Reports) -> None:
    again = reports()
    assert json.dumps(again.report) == json.dumps(made.report)
    assert again.page == made.page
    assert again.metrics == made.metrics
    assert json.dumps(again.profile) == json.dumps(made.profile)
    assert sorted(again.data_docs) == sorted(made.data_docs)


def test_nothing_foreign_gets_through_unescaped_and_no_user_is_named(made: Reports) -> None:
    assert EVIL not in made.page
    assert "&lt;script&gt;" in made.page
    assert "ada@" not in made.page
    assert "ada@" not in json.dumps(made.report)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_no_network(made: Reports) -> None:
    tags = Tags()
    tags.feed(made.page)
    assert tags.open == []
    assert not {"src", "href", "onclick"} & set(tags.attributes)
    assert "http" not in made.page.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_data_docs_hold_both_suites(made: Reports) -> None:
    assert "index.html" in made.data_docs
    assert {"expectations/items.html", "expectations/interactions.html"} <= set(made.data_docs)
    assert sum(len(content) for content in made.data_docs.values()) < 2_000_000


BAD_EVENTS = {
    "missing_user_id": (" ", "a", 100),
    "missing_item_id": ("u", None, 100),
    "long_user_id": ("u" * 300, "a", 100),
    "long_item_id": ("u", "i" * 300, 100),
    "control_in_user_id": ("u\x00", "a", 100),
    "control_in_item_id": ("u", "a\x85", 100),
    "missing_time": ("u", "a", None),
    "too_early": ("u", "a", -1),
    "too_late": ("u", "a", 2_000_000_001),
    "unknown_item": ("u", "z", 100),
    "duplicate_row": ("u", "b", 100),
}
GOOD_EVENT = ("u", "b", 100)


def check(frame: pl.DataFrame, limit: int) -> Checks:
    """Great Expectations' opinion of interactions that nobody validated."""
    contract = interactions_contract(PARAMETERS, pl.Series(["a", "b"]))
    return run_expectations([(contract, frame.select(list(schema.VALIDATED_INTERACTIONS)).lazy())], limit)


@pytest.mark.parametrize(("limit", "computed"), [(100, EVERY_ROW), (0, COUNTS)])
def test_every_rule_can_fail_in_both_readings(limit: int, computed: str) -> None:
    """All bad rows at once: each rule's expectations fail, so that none is there for show."""
    rows = raw_interactions(GOOD_EVENT, *BAD_EVENTS.values())
    odd = rows.head(1).with_columns(pl.lit(float("nan")).alias(schema.WEIGHT), pl.lit(200, pl.Int64).alias("timestamp"))
    (suite,) = check(pl.concat([rows, odd]), limit).suites
    assert suite.computed == computed
    assert not suite.passed
    assert {result.rule for result in suite.results if not result.success} == {*BAD_EVENTS, "weight_not_finite"}


@pytest.mark.parametrize("limit", [100, 0])
def test_items_expectations_can_fail(limit: int) -> None:
    rows = raw_items(
        ("a", "A", "x"), ("a", "A", "x"), (None, "B", "x"), ("c", None, "x"), ("d", " ", " "),
        ("e" * 300, "E", "x"), ("f\n", "F", "x"), ("g", "G" * 10_001, "x"),
    )  # fmt: skip
    contract = items_contract(PARAMETERS)
    (suite,) = run_expectations([(contract, rows.select(list(schema.VALIDATED_ITEMS)).lazy())], limit).suites
    failed = {result.rule for result in suite.results if not result.success}
    assert failed == {rule.name for rule in contract.rules} - {"unreadable_row"}


def test_disagreement_of_the_two_readings_is_a_bug() -> None:
    tables = validate_tables(RAW_INTERACTIONS, RAW_ITEMS, PARAMETERS)
    spoilt = tables._replace(interactions=tables.interactions.with_columns(pl.lit(None, pl.Int64).alias("timestamp")))
    with pytest.raises(AssertionError, match="disagree"):
        build_reports(ROWS, spoilt, FACTS, None, PARAMETERS)


def test_a_row_that_vanished_is_a_bug() -> None:
    tables = validate_tables(RAW_INTERACTIONS, RAW_ITEMS, PARAMETERS)
    for short in (
        tables._replace(interactions=tables.interactions.head(2)),
        tables._replace(quarantine=tables.quarantine.head(1)),
    ):
        with pytest.raises(AssertionError, match="rows in"):
            build_reports(ROWS, short, FACTS, None, PARAMETERS)


def test_a_second_version_is_compared_and_what_moved_is_a_warning(made: Reports) -> None:
    assert made.report["drift"] is None
    assert "this is the first" in made.page
    same = reports(json.loads(json.dumps(made.profile)))
    assert not any(measure["moved"] for measure in same.report["drift"])
    moved = reports({**made.profile, "events": 30})
    assert moved.metrics["figures_that_moved"] == 1
    (warning,) = [w for w in moved.report["warnings"] if w["table"] == "drift"]
    assert warning["name"] == "events"
    assert "from 30 to 3 (-90.0%)" in warning["detail"]
    assert "From 30 to 3" in moved.page


def test_what_moved_from_zero_has_no_percentage(made: Reports) -> None:
    moved = reports({**made.profile, "events": 0})
    (warning,) = [w for w in moved.report["warnings"] if w["table"] == "drift"]
    assert warning["detail"] == "from 0 to 3"
    assert "From 0 to 3." in moved.page
    assert "<td>from 0</td>" in moved.page.replace(' class="number"', "")


def test_one_user_has_one_name_in_a_report_and_no_name_is_made_of_the_id(made: Reports) -> None:
    rows = [*[("4711", "zz", n) for n in (1, 2)], ("4712", "zz", 3), *[("4711", "a", 5 + n) for n in range(9)]]
    parameters = validation_parameters(max_quarantined_share=1.0, burst_events=3)
    tables = validate_tables(raw_interactions(*rows).lazy(), RAW_ITEMS, parameters)
    report = build_reports({INTERACTIONS: 12, ITEMS: 3}, tables, {}, None, parameters).report
    (unknown,) = [r for r in report["tables"]["interactions"]["rules"] if r["name"] == "unknown_item"]
    assert [example["row"]["user_id"] for example in unknown["examples"]] == ["user 1", "user 1", "user 2"]
    assert report_of_name(report, "user_burst")["detail"].startswith("user 1 had 9 events")
    assert "471" not in json.dumps(report)


@pytest.mark.parametrize("severity", ["warn", "quarantine"])
@pytest.mark.parametrize("limit", [100, 0])
def test_repeated_rows_are_kept_and_counted_where_they_may_be(severity: str, limit: int) -> None:
    parameters = validation_parameters(max_quarantined_share=1.0, repeated_rows=severity, row_check_limit=limit)
    tables = validate_tables(raw_interactions(("u", "a", 86_400), *[("v", "a", 0)] * 3).lazy(), RAW_ITEMS, parameters)
    made = build_reports({INTERACTIONS: 4, ITEMS: 3}, tables, {}, None, parameters)
    assert made.metrics["interactions_duplicate_row"] == 2
    assert made.metrics["interactions_rows_out"] == (4 if severity == "warn" else 2)
    assert ("duplicate_row" in [w["name"] for w in made.report["warnings"]]) == (severity == "warn")


def test_the_page_says_how_the_source_was_read_and_who_was_forgotten(made: Reports) -> None:
    assert "<dt>time › unit</dt><dd>ms</dd>" in made.page
    assert "7 rows of 1 users who asked for it" in made.page


def test_warnings_come_before_what_was_taken_out(made: Reports) -> None:
    names = [warning["name"] for warning in made.report["warnings"]]
    assert names == ["item_without_text", "early_times", "users_with_one_event"]
    assert made.metrics["warnings"] == 3
    assert made.page.index("users_with_one_event") < made.page.index("Rows taken out")
