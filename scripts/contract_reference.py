"""Write docs/reference/data-contract.md from the data contract itself (`make docs`).

Rules, watches, columns and severities are said once, in `prismrec.data`; limits come from conf/base. A test holds the
page up to date.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from prismrec.configuration import BASE, read_yaml
from prismrec.data.contract import MEANINGS, Contract, interactions_contract, items_contract
from prismrec.data.drift import NUMBERS
from prismrec.parameters.data_validation import DataValidationParameters

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "reference" / "data-contract.md"
LIMITS = ("max_id_length", "max_title_length", "earliest_timestamp", "latest_timestamp", "max_quarantined_share")
INTRODUCTION = """# Data contract

Written by `make docs` from `src/prismrec/data/contract.py`, `watches.py` and `conf/base`; do not edit it by hand.

Stage 1 holds both tables of a source to this contract. What it finds has one of three severities:

- **reject**: the run stops, nothing is written that a later stage could read;
- **quarantine**: the row goes to `02_intermediate/quarantine.parquet`, with its file, row number, cells and every rule
  that it breaks, and the run goes on without it;
- **warn**: nothing is taken out; the report shows it first, and somebody should look at it.

Rows in = rows validated + rows quarantined: counted on the disk and asserted on every run. Where a column is missing or
no file can be read, the source stops the run before any rule is asked.

## The run is rejected when

- a table is empty, or no row of it is left;
- more than `max_quarantined_share` of a table's rows are quarantined;
- a rule of severity `reject` is broken; `unknown_items: reject` makes `unknown_item` one, `repeated_rows: reject`
  `duplicate_row`.
"""
DRIFT = """
## Drift

Against the last accepted version in the workspace (`data_profile`), a warning each:

- {numbers} and the medians of history length, popularity and text length: a relative change above `drift_change`;
- the distributions of history length, popularity, text length, kinds of ids, kinds of events and weights: a population
  stability index above `drift_index`;
- the last day: data that end earlier than before.
"""


def types_of(contract: Contract) -> Iterator[list[str]]:
    """A row for every column, raw or validated."""
    for name, dtype in contract.raw.items():
        yield [f"`{name}`", f"`{dtype}`", "yes" if name in contract.validated else "no", MEANINGS[name]]


def grid(header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield from ["", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    yield from (f"| {' | '.join(row)} |" for row in rows)


def section(contract: Contract) -> Iterator[str]:
    """Lines of one table."""
    yield from ["", f"## {contract.table.capitalize()}"]
    yield from grid(["column", "type", "validated", "meaning"], types_of(contract))
    yield from [
        "",
        f"A row is repeated where an earlier one has the same {', '.join(f'`{name}`' for name in contract.unique)}.",
    ]
    rules = ([f"`{r.name}`", r.severity, r.sentence, r.mend] for r in contract.rules)
    yield from grid(["rule", "severity", "what is wrong", "mend"], rules)
    watches = ([f"`{w.name}`", "warn", w.sentence, w.mend] for w in contract.watches)
    yield from grid(["watched over the whole table", "severity", "what is odd", "mend"], watches)


def render() -> str:
    """The page."""
    values = read_yaml(PROJECT / "conf" / BASE / "parameters_data_validation.yml")["data_validation"]
    limits = {name: values[name] for name in (*LIMITS, "unknown_items", "repeated_rows")}
    parameters = DataValidationParameters(seed=0, source="synthetic", data_root="", **limits)
    contracts = [interactions_contract(parameters, pl.Series([], dtype=pl.String)), items_contract(parameters)]
    lines = [line for contract in contracts for line in section(contract)]
    drift = DRIFT.format(numbers=", ".join(name.replace("_", " ") for name in NUMBERS))
    return INTRODUCTION + "\n".join(lines) + "\n" + drift


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(PROJECT)}")
