r"""Stages 1 and 2 from Parquet logs to histories, by size: time and peak memory.

    python -m benchmarks.data_scale --rows 1e6 1e7 1e8 --work /tmp/scale --output benchmarks/results/data_scale.json

Each size gets logs of its own (`benchmarks.logs`, one row in a thousand broken) and one `kedro run --pipelines
data_validation,sequence_building` in a process of its own, configured as anybody's logs are (source `files`). Peak
memory is the process's largest resident set, the operating system's own figure; pages of mapped files count too.
Rows in are checked to be rows out plus rows quarantined. 1e8 needs about 12 GB of disk.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.logs import write_logs

PROJECT = Path(__file__).parents[1]
BROKEN = 0.001
ENVIRONMENT = "scale"
STAGES = ("data_validation", "sequence_building")
SETTINGS = """
data_validation:
  source: files
  folder: {folder}
  files:
    interactions: {{path: "interactions/*.parquet"}}
    items: {{path: items.parquet}}
"""


def configure(folder: Path, logs: str) -> Path:
    """A copy of the project's configuration with an environment for these logs; return its path."""
    conf = folder / "conf"
    shutil.copytree(PROJECT / "conf", conf, dirs_exist_ok=True, ignore=shutil.ignore_patterns("local"))
    (conf / "local").mkdir(exist_ok=True)
    (conf / ENVIRONMENT).mkdir(exist_ok=True)
    (conf / ENVIRONMENT / "globals.yml").write_text(f"workspace: {ENVIRONMENT}\n", encoding="utf-8")
    (conf / ENVIRONMENT / "parameters_data_validation.yml").write_text(SETTINGS.format(folder=logs), encoding="utf-8")
    return conf


def measure(rows: int, work: Path) -> dict[str, Any]:
    """Run both stages on so many events.

    Returns:
        Seconds of each stage and in all, peak memory in GiB, and what came in and out.
    """
    folder = work / str(rows)
    shutil.rmtree(folder, ignore_errors=True)
    write_logs(rows, folder / "logs", broken=BROKEN)
    command = [sys.executable, "-m", "kedro", "run", "--env", ENVIRONMENT, "--conf-source",
               str(configure(folder, "logs")), "--pipelines", ",".join(STAGES)]  # fmt: skip
    environment = {
        **os.environ,
        "PRISMREC_DATA_ROOT": str(folder),
        "PRISMREC_WORKSPACES": str(folder / "workspaces"),
        "DO_NOT_TRACK": "1",
        "KEDRO_DISABLE_TELEMETRY": "1",
    }
    start = time.perf_counter()
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"The run failed, see {folder / 'run.log'}")
    records = {stage: _record(folder / "workspaces" / ENVIRONMENT, stage) for stage in STAGES}
    return {
        "rows": rows,
        "logs_mb": sum(path.stat().st_size for path in (folder / "logs").rglob("*.parquet")) / 1e6,
        "seconds": seconds,
        "stage_seconds": {stage: record["seconds"] for stage, record in records.items()},
        "node_seconds": {name: value for record in records.values() for name, value in record["node_seconds"].items()},
        "peak_gib": usage.ru_maxrss / 2**20,
        **_accounts(folder / "workspaces" / ENVIRONMENT, rows),
    }


def _record(workspace: Path, stage: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        max((workspace / "08_reporting" / "manifests" / stage).glob("[!.]*/run.json")).read_text(encoding="utf-8")
    )
    return record


def _accounts(workspace: Path, rows: int) -> dict[str, int]:
    """Rows in, out and quarantined, and what is left in the histories."""
    name = "data_validation_metrics.json"
    metrics = json.loads(max((workspace / "02_intermediate" / name).glob(f"[!.]*/{name}")).read_text(encoding="utf-8"))
    name = "sequence_building_metrics.json"
    built = json.loads(max(workspace.glob(f"*/{name}/[!.]*/{name}")).read_text(encoding="utf-8"))
    found = {key: metrics[f"interactions_{key}"] for key in ("rows_in", "rows_out", "rows_quarantined")}
    assert found["rows_in"] == rows == found["rows_out"] + found["rows_quarantined"], found
    return {**found, **{key: built[key] for key in ("events", "users", "items")}}


def as_table(cells: list[dict[str, Any]]) -> str:
    """One line a size."""
    lines = [
        f"{'events':>12} {'logs MB':>8} {'stage 1 s':>10} {'stage 2 s':>10} {'all s':>8} "
        f"{'us/event':>9} {'peak GiB':>9} {'quarantined':>12}"
    ]
    for cell in cells:
        first, second = (cell["stage_seconds"][stage] for stage in STAGES)
        lines.append(
            f"{cell['rows']:>12,} {cell['logs_mb']:>8.0f} {first:>10.1f} {second:>10.1f} {cell['seconds']:>8.1f} "
            f"{1e6 * cell['seconds'] / cell['rows']:>9.2f} {cell['peak_gib']:>9.2f} {cell['rows_quarantined']:>12,}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure every size; what was measured is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=lambda text: int(float(text)), required=True, help="such as 1e6 1e7")
    parser.add_argument("--work", type=Path, required=True, help="folder for logs and workspaces")
    parser.add_argument("--keep", action="store_true", help="leave logs and workspaces there")
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args(arguments)
    cells = []
    for rows in options.rows:
        cells.append(measure(rows, options.work))
        if not options.keep:
            shutil.rmtree(options.work / str(rows))
        if options.output:
            about = {
                "cores": os.cpu_count(),
                "machine": platform.platform(),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "broken_share": BROKEN,
            }
            text = json.dumps({**about, "sizes": cells}, indent=2, sort_keys=True) + "\n"
            options.output.write_text(text, encoding="utf-8")
    print(as_table(cells))


if __name__ == "__main__":
    main()
