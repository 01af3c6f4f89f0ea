"""What a source of real data returns."""

from typing import Any, NamedTuple

import polars as pl


class SourceTables(NamedTuple):
    """Raw interactions, lazily, raw items, and what is to be said of both: layout, interactions, items, notes."""

    interactions: pl.LazyFrame
    items: pl.DataFrame
    facts: dict[str, Any]
