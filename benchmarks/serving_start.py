"""Size of a Bento, and how long it takes from a start to the first answer.

    python -m benchmarks.serving_start --bundle FOLDER --clean --output benchmarks/results/serving_start.json

Sizes are those of the bundle, of the Bento beside it (code and requirements) and, with `--clean`, of an environment
made from the Bento's own requirements, which then serves; without it this environment does. A start is that of
`bentoml serve` with one worker until `/readyz` says yes, which means that the first answer was computed already. The
median of the starts counts; files are in the page cache from the second one on, so the first one is told by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving import bento, bodies, machine, resident, store


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the command; returns the figures."""
    options = parse(arguments)
    with store(options.bundle) as (tag, variables):
        folder = Path(variables["BENTOML_HOME"]) / "bentos" / tag.replace(":", "/")
        report: dict[str, Any] = {"bundle_mb": megabytes(options.bundle), "bento_mb": megabytes(folder)}
        with interpreter(folder, options.clean) as python:
            if options.clean:
                report["environment_mb"] = megabytes(Path(python).parents[1])
            (body,) = bodies(options.bundle, 1, seed=1)
            starts = [start(tag, variables, python, body) for _ in range(options.rounds)]
    report |= {"starts": starts, "machine": machine()}
    report["ready_seconds"] = statistics.median(one["ready_seconds"] for one in starts)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle's folder")
    parser.add_argument("--clean", action="store_true", help="serve from an environment made for it (minutes)")
    parser.add_argument("--rounds", type=int, default=3, help="starts")
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


def megabytes(folder: Path) -> float:
    """Of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


@contextmanager
def interpreter(bento_folder: Path, clean: bool) -> Iterator[str]:
    """A Python with what the Bento requires."""
    if not clean:
        yield sys.executable
        return
    with tempfile.TemporaryDirectory(prefix="prismrec-clean-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        requirements = bento_folder / "env" / "python" / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", str(requirements)], check=True)
        yield python


def start(tag: str, variables: dict[str, str], python: str, body: bytes) -> dict[str, float]:
    """One start: until it is ready, the first request, and the memory after it."""
    with bento(tag, variables, python) as service:
        asked = time.perf_counter()
        answer = httpx.post(f"{service.address}/recommend", content=body, timeout=60.0, trust_env=False)
        answer.raise_for_status()
        return {
            "ready_seconds": service.ready_seconds,
            "first_request_ms": 1e3 * (time.perf_counter() - asked),
            "memory_mb": resident(service.pid) / 1e6,
        }


def as_table(report: dict[str, Any]) -> str:
    """Sizes, then a line a start."""
    sizes = {"bundle": "bundle_mb", "Bento beside it": "bento_mb", "environment": "environment_mb"}
    lines = [f"{label}: {report[key]:,.1f} MB" for label, key in sizes.items() if key in report]
    for number, one in enumerate(report["starts"], start=1):
        lines.append(
            f"start {number}: ready after {one['ready_seconds']:.1f} s, "
            f"first request {one['first_request_ms']:.0f} ms, {one['memory_mb']:,.0f} MB of memory"
        )
    return "\n".join([*lines, f"ready after {report['ready_seconds']:.1f} s in the median"])


if __name__ == "__main__":
    print(as_table(main()))
