"""The benchmark of long histories runs at a small size and writes figures of the right kind."""

import json
from pathlib import Path

import pytest

from benchmarks import long_histories


def test_report_of_a_small_run(tmp_path: Path) -> None:
    output = tmp_path / "long.json"
    long_histories.main(["--lengths", "20", "40", "--rounds", "1", "--output", str(output)])
    passes = json.loads(output.read_text())["passes"]
    assert len(passes) == 4
    for figures in passes.values():
        short, long = (figures["milliseconds"][length] for length in ("20", "40"))
        assert short > 0
        assert figures["ratio"] == pytest.approx(long / short, rel=0.05, abs=0.02)
