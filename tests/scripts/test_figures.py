"""The page of figures: sections are filled from reports, nothing else is touched."""

import runpy
from pathlib import Path

import pytest

from evaluation.report_fixture import report as report_fixture

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "figures.py"))


def test_a_section_is_replaced_and_the_rest_stays() -> None:
    text = "a\n<!-- figures:x -->\nold\n<!-- /figures:x -->\nb\n"
    assert SCRIPT["filled"](text, "figures:x", "new") == "a\n<!-- figures:x -->\nnew\n<!-- /figures:x -->\nb\n"


def test_a_page_without_the_section_is_refused() -> None:
    with pytest.raises(SystemExit, match="no section <!-- figures:y -->"):
        SCRIPT["filled"]("<!-- figures:x -->\n<!-- /figures:x -->", "figures:y", "")


def test_every_stages_seconds_are_said() -> None:
    first = {"seconds": 90.0, "peak_rss_mb": 2500.0, "node_seconds": {"train_sasrec": 30.0, "merge_sasrec": 9.0}}
    anew = {"seconds": 12.0, "peak_rss_mb": 900.0, "node_seconds": {"merge_sasrec": 10.0}}  # a part of the stage
    runs = {"codebook": [{"seconds": 2.2, "peak_rss_mb": 1500.0}], "evaluation": [first, anew]}
    assert list(SCRIPT["costs"](runs)) == [
        ("codebook", "2 s, 1.5 GB"), ("evaluation", "42 s, 2.5 GB"), ("– of which SASRec", "30 s")
    ]  # fmt: skip


def test_both_tables_hold_all_rows() -> None:
    report = report_fixture()
    for text in (SCRIPT["figures"](report), SCRIPT["short"](report)):
        for name in report["models"]:
            assert name.removesuffix("_time_free") in text


def test_final_fits_and_held_out_users_go_elsewhere() -> None:
    """Figures of models that have trained on validation events never stand where chosen ones are expected."""
    report = report_fixture()
    assert SCRIPT["section"](report) == "figures"
    assert SCRIPT["section"]({**report, "final_fit": True}) == "final"
    users = {**report, "protocol": {**report["protocol"], "name": "multi_target_users"}}
    assert SCRIPT["section"](users) == "users"
    table = SCRIPT["short"](users, SCRIPT["USERS_METRICS"])
    assert "Recall@50 | " in table
    assert table.splitlines()[2].endswith("| Recall@20, kept | Recall@50, kept |")
    assert "kept" not in SCRIPT["short"]({**users, "other_history": None}, SCRIPT["USERS_METRICS"])
