r"""From logs to histories: ours against pandas and DuckDB, the same answer, in one run.

    python -m benchmarks.sequence_speed --rows 1e7 --rounds 3 --output benchmarks/results/sequence_speed.json

The job: read Parquet logs (`benchmarks.logs`), number users and items (sorted by id), keep items with 5 events, order
each user's events by time (ties by the order of the source), drop repeats after the first, keep users with 5 events
left, write every user's items and times. Ours are the functions of `prismrec.data.sequences` that do this in the stage
`sequence_building`, which besides writes maps with titles, cut points and the split's hash.
pandas: as it is usually written, and the fastest form that we know (Arrow strings, list arrays made from offsets, no
Python loop). DuckDB: three forms of SQL, two that group and one with a window; the fastest one counts.

Each way runs in a process of its own with all cores; rounds interleave, and the best round counts for everybody. All
answers are compared. DuckDB is not among the project's requirements: pip install 'duckdb>=2,<3'.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.logs import write_logs

FEWEST = 5
OURS = "prismrec"


def ours(logs: Path, out: Path) -> None:
    """The functions that `sequence_building` is made of."""
    from prismrec.data import sequences
    from prismrec.parameters.sequence_building import SequenceBuildingParameters

    parameters = SequenceBuildingParameters(seed=1, min_item_events=FEWEST, min_user_events=FEWEST)
    interactions = pl.scan_parquet(sorted(logs.glob("*.parquet")))
    ids = [sequences._distinct(interactions, column) for column in ("item_id", "user_id")]
    events = sequences.read_events(interactions, ids[0], ids[1], parameters)
    core = sequences.keep_core(events, len(ids[1]), len(ids[0]), parameters)
    sequences.gather_histories(core).save(out)


def pandas_plain(logs: Path, out: Path) -> None:
    """As it is usually written: sort, drop duplicates, group, aggregate into lists."""
    import pandas as pd

    events = pd.read_parquet(logs)
    for name in ("user", "item"):
        events[name] = pd.factorize(events[f"{name}_id"], sort=True)[0]
    events = events[events.groupby("item")["item"].transform("size") >= FEWEST]
    events = events.sort_values(["user", "timestamp"], kind="stable").drop_duplicates(["user", "item"])
    events = events[events.groupby("user")["user"].transform("size") >= FEWEST]
    events.groupby("user")[["item", "timestamp"]].agg(list).reset_index().to_parquet(out)


def pandas_arrow(logs: Path, out: Path) -> None:
    """The fastest form that we know: Arrow strings, lists made from offsets without a Python loop."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = pd.read_parquet(logs, dtype_backend="pyarrow")
    users, items = (pd.factorize(events[name], sort=True)[0].astype(np.int32) for name in ("user_id", "item_id"))
    events = pd.DataFrame({"user": users, "item": items, "timestamp": events["timestamp"].to_numpy()})
    events = events[events.groupby("item")["item"].transform("size") >= FEWEST]
    events = events.sort_values("timestamp", kind="stable").sort_values("user", kind="stable")
    events = events.drop_duplicates(["user", "item"])
    events = events[events.groupby("user")["user"].transform("size") >= FEWEST]
    index, starts = np.unique(events["user"].to_numpy(), return_index=True)
    offsets = pa.array(np.append(starts, len(events)).astype(np.int32))
    columns = {"user": pa.array(index)}
    for name in ("item", "timestamp"):
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(events[name].to_numpy()))
    pq.write_table(pa.table(columns), out)


def duckdb_grouped(logs: Path, out: Path) -> None:
    """One group a pair of user and item."""
    _duckdb(
        logs,
        out,
        "SELECT user, item, arg_min(timestamp, (timestamp, place)) AS timestamp, min((timestamp, place)) AS rank "
        "FROM events GROUP BY user, item",
    )


def duckdb_packed(logs: Path, out: Path) -> None:
    """The same with time and place packed into one number."""
    _duckdb(
        logs,
        out,
        "SELECT user, item, min((timestamp::HUGEINT << 40) + place) AS rank, rank >> 40 AS timestamp "
        "FROM events GROUP BY user, item",
    )


def duckdb_window(logs: Path, out: Path) -> None:
    """One window a pair of user and item."""
    _duckdb(
        logs,
        out,
        "SELECT user, item, timestamp, (timestamp, place) AS rank FROM events "
        "QUALIFY row_number() OVER (PARTITION BY user, item ORDER BY timestamp, place) = 1",
    )


def _duckdb(logs: Path, out: Path, first: str) -> None:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {os.cpu_count()}")
    source = f"read_parquet('{logs}/*.parquet')"
    for name in ("user", "item"):
        connection.execute(
            f"CREATE TABLE {name}s AS SELECT {name}_id, (row_number() OVER (ORDER BY {name}_id) - 1)::INT AS {name}, n "
            f"FROM (SELECT {name}_id, count(*) AS n FROM {source} GROUP BY {name}_id)"
        )
    connection.execute(
        f"COPY (WITH events AS (SELECT user, item, timestamp, file_index * {2**32} + file_row_number AS place "
        f"FROM {source} JOIN users USING (user_id) JOIN items USING (item_id) WHERE items.n >= {FEWEST}), "
        f"kept AS ({first}) SELECT user, list(item ORDER BY rank) AS item, list(timestamp ORDER BY rank) AS timestamp "
        f"FROM kept GROUP BY user HAVING count(*) >= {FEWEST} ORDER BY user) TO '{out}' (FORMAT parquet)"
    )


# What a way imports; not timed, for anybody.
IMPORTS = {
    OURS: ("prismrec.data.sequences", "prismrec.parameters.sequence_building"),
    "pandas": ("pandas", "pyarrow.parquet"),
    "DuckDB": ("duckdb",),
}
WAYS: dict[str, Callable[[Path, Path], None]] = {
    OURS: ours,
    "pandas, plain": pandas_plain,
    "pandas, Arrow": pandas_arrow,
    "DuckDB, grouped": duckdb_grouped,
    "DuckDB, packed": duckdb_packed,
    "DuckDB, window": duckdb_window,
}


def answer(out: Path) -> str:
    """A hash of what a way wrote: users, lengths, items and times."""
    if out.is_dir():
        from prismrec.data.histories import Histories

        found = Histories.load(out)
        columns = [found.user_index_U, found.lengths, found.items, found.timestamps]
    else:
        table = pl.read_parquet(out)
        lists = [table.get_column(name) for name in ("item", "timestamp")]
        columns = [table.get_column("user").to_numpy(), lists[0].list.len().to_numpy()]
        columns += [column.explode().to_numpy() for column in lists]
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column, np.int64).tobytes())
    return digest.hexdigest()


def run(way: str, logs: Path, out: Path) -> dict[str, float]:
    """Run one way in a process of its own.

    Returns:
        "seconds" from the first read to the written file, imports left out, and "peak_mb" of the process.
    """
    command = [sys.executable, "-m", "benchmarks.sequence_speed", "--way", way, "--logs", str(logs), "--out", str(out)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, float] = json.loads(printed.splitlines()[-1])
    return figures


def compare(logs: Path, ways: list[str], rounds: int) -> dict[str, Any]:
    """All ways, round by round.

    Raises:
        SystemExit: two ways do not agree.
    """
    best: dict[str, dict[str, float]] = {}
    answers: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=logs.parent) as folder:
        for number in range(rounds):
            for way in ways:
                out = Path(folder) / f"{number}-{ways.index(way)}"
                figures = run(way, logs, out)
                best[way] = min(best.get(way, figures), figures, key=lambda figures: figures["seconds"])
                answers[way] = answer(out)
    if len(set(answers.values())) > 1:
        raise SystemExit(f"The ways do not agree: {answers}")
    seconds = best[OURS]["seconds"]
    return {"ways": best, "times_slower": {way: best[way]["seconds"] / seconds for way in ways if way != OURS}}


def as_table(report: dict[str, Any]) -> str:
    """One line a way."""
    lines = [f"{'way':<18} {'seconds':>8} {'peak MB':>8} {'times ours':>11}"]
    for way, figures in report["ways"].items():
        ratio = report["times_slower"].get(way, 1.0)
        lines.append(f"{way:<18} {figures['seconds']:>8.2f} {figures['peak_mb']:>8.0f} {ratio:>11.2f}")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command; --way, --logs and --out are those of its own sub-processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=10_000_000, help="events, such as 1e7")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="what to compare")
    parser.add_argument("--work", type=Path, help="folder for logs and answers; a temporary one by default")
    parser.add_argument("--output", type=Path, help="JSON to write")
    for name in ("--way", "--logs", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Compare, or run one way."""
    options = parse(arguments)
    if options.way:
        for module in IMPORTS[options.way.split(",")[0]]:
            import_module(module)
        start = time.perf_counter()
        WAYS[options.way](Path(options.logs), Path(options.out))
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        write_logs(options.rows, Path(folder))
        report = compare(Path(folder) / "interactions", options.ways, options.rounds)
    names = [name for name in ("polars", "pandas", "duckdb") if name in " ".join(options.ways).lower() + "polars"]
    report |= {
        "rows": options.rows,
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: version(name) for name in names},
    }
    print(as_table(report))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
