"""The reference of the data contract is what the contract says now."""

import runpy
from pathlib import Path

import polars as pl

from data.tables import validation_parameters
from prismrec.data.contract import MEANINGS, interactions_contract, items_contract

PROJECT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(PROJECT / "scripts" / "contract_reference.py"))


def test_committed_page_is_up_to_date() -> None:
    page = PROJECT / "docs" / "reference" / "data-contract.md"
    assert page.read_text(encoding="utf-8") == SCRIPT["render"](), "run: make docs"


def test_every_column_rule_and_watch_is_there() -> None:
    text = SCRIPT["render"]()
    parameters = validation_parameters()
    for contract in (items_contract(parameters), interactions_contract(parameters, pl.Series([], dtype=pl.String))):
        part = text.split(f"\n## {contract.table.capitalize()}\n")[1].split("\n## ")[0]
        for name in (*contract.raw, *(rule.name for rule in contract.rules), *(w.name for w in contract.watches)):
            assert f"| `{name}` |" in part, name
        assert set(contract.raw) <= set(MEANINGS)


def test_a_pipe_or_a_line_break_would_not_break_the_tables() -> None:
    for line in SCRIPT["render"]().splitlines():
        if line.startswith("| `"):
            assert line.count(" | ") in (3,), line
