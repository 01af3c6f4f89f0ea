"""Run one corrupt input through reading, sinking and validating, as the pipeline does."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from data.corrupt.inputs import GOOD_ITEMS, Corrupt, csv
from data.tables import validation_parameters
from prismrec.data.contract import interactions_contract, items_contract
from prismrec.data.profile import count_figures
from prismrec.data.report import doubted_unit
from prismrec.data.sources import read_source
from prismrec.data.validation import count_rules, validate_tables
from prismrec.parameters.data_validation import DataValidationParameters


class Outcome(NamedTuple):
    """What came of an input that was not refused."""

    rows_in: int
    interactions: pl.DataFrame
    items: pl.DataFrame
    quarantine: pl.DataFrame
    rules: dict[str, int]
    warnings: tuple[str, ...]


def write(case: Corrupt, folder: Path) -> DataValidationParameters:
    """Write a case's files; returns the parameters that read them."""
    folder.mkdir()
    for name, content in {"interactions.csv": csv(), "items.csv": GOOD_ITEMS.encode(), **case.files}.items():
        if callable(content):
            content(folder / name)
        elif content is not None:
            (folder / name).write_bytes(content)
    return validation_parameters(
        **{
            "source": "files",
            "data_root": str(folder.parent),
            "folder": folder.name,
            "max_quarantined_share": 1.0,
            "files": {"interactions": dict(case.interactions), "items": dict(case.items)},
            **case.parameters,
        }
    )


def run(parameters: DataValidationParameters, work: Path) -> Outcome:
    """Read, sink, validate and look for warnings."""
    tables = read_source(parameters)
    work.mkdir()
    raw = work / "raw.parquet"
    tables.interactions.sink_parquet(raw, maintain_order=True)
    made = validate_tables(pl.scan_parquet(raw), tables.items, parameters)
    interactions = made.interactions.collect()
    quarantine = made.quarantine.collect()
    figures = count_figures(interactions.lazy(), made.items, parameters.burst_events)
    figures = figures._replace(doubted_unit=doubted_unit(tables.facts))
    contracts = (
        items_contract(parameters),
        interactions_contract(parameters, made.items.get_column("item_id")),
    )
    found = [
        watch.name for contract in contracts for watch in contract.watches if watch.find(figures, parameters).number
    ]
    rows_in = pl.scan_parquet(raw).select(pl.len()).collect().item() + len(tables.items)
    return Outcome(rows_in, interactions, made.items, quarantine, count_rules(quarantine.lazy()), tuple(sorted(found)))
