"""Synthetic logs of any size, for the benchmarks of the data stages.

    python -m benchmarks.logs --rows 1e8 --out /tmp/logs

Parquet files of a million rows, `interactions/00000.parquet` and on, and `items.parquet`: 50 events a user on
average (log-normal activity), an item for every 200 events up to 500,000 (Zipf popularity, exponent 0.8), ids as
text, times rising through the files as logs have them. `--broken` spoils that share of rows in five ways, so that
the quarantine has work. The same arguments give the same rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

FILE_ROWS = 1_000_000
EVENTS_A_USER, EVENTS_AN_ITEM, MOST_ITEMS = 50, 200, 500_000
START = 1_500_000_000  # seconds since 1970 of the first event
EVENTS_A_SECOND = 3


def write_logs(rows: int, folder: Path, seed: int = 1, broken: float = 0.0) -> None:
    """Write `folder/interactions/*.parquet` and `folder/items.parquet`.

    Args:
        rows: events.
        folder: made if need be.
        seed: of the draws.
        broken: share of rows without a user, without an item, of an unknown item, without a time, or repeated.
    """
    rng = np.random.default_rng(seed)
    users, items = max(rows // EVENTS_A_USER, 10), min(max(rows // EVENTS_AN_ITEM, 100), MOST_ITEMS)
    active_U = np.cumsum(rng.lognormal(0, 1, users))
    popular_N = np.cumsum(np.arange(1, items + 1) ** -0.8)
    (folder / "interactions").mkdir(parents=True, exist_ok=True)
    _titles(items).write_parquet(folder / "items.parquet")
    start = float(START)
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        size = min(FILE_ROWS, rows - first)
        times = start + np.sort(rng.random(size)) * size / EVENTS_A_SECOND
        start = float(times[-1])
        table = pl.DataFrame(
            {
                "user": np.searchsorted(active_U, rng.random(size) * active_U[-1]),
                "item": np.searchsorted(popular_N, rng.random(size) * popular_N[-1]),
                "timestamp": times.astype(np.int64),
            }
        ).select(
            pl.format("u{}", "user").alias("user_id"),
            pl.format("i{}", "item").alias("item_id"),
            "timestamp",
        )
        _spoil(table, rng, broken).write_parquet(folder / "interactions" / f"{number:05}.parquet")


def _titles(items: int) -> pl.DataFrame:
    number = pl.int_range(items, eager=True)
    return number.to_frame("number").select(
        pl.format("i{}", "number").alias("item_id"), pl.format("Item number {}", "number").alias("title")
    )


def _spoil(table: pl.DataFrame, rng: np.random.Generator, share: float) -> pl.DataFrame:
    kind = pl.Series(np.where(rng.random(len(table)) < share, rng.integers(0, 5, len(table)), -1))
    spoilt = table.with_columns(
        pl.when(kind != 0).then(pl.col("user_id")).alias("user_id"),
        pl.when(kind == 1).then(None).when(kind == 2).then(pl.lit("i-unknown")).otherwise(pl.col("item_id"))
        .alias("item_id"),
        pl.when(kind != 3).then(pl.col("timestamp")).alias("timestamp"),
    )  # fmt: skip
    before = pl.int_range(pl.len()) - (kind == 4).cast(pl.Int64)  # such a row is the one before it once more
    return spoilt.select(pl.all().gather(before.clip(0)))


def main() -> None:
    """Write logs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(float(text)), required=True, help="events, such as 1e7")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", type=float, default=0.0, help="share of rows to spoil")
    options = parser.parse_args()
    write_logs(options.rows, options.out, options.seed, options.broken)


if __name__ == "__main__":
    main()
