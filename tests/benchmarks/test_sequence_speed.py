"""The data benchmarks run at a small size, and every way gives the same answer; how fast they are, no test tells."""

import json
from pathlib import Path

import polars as pl
import pytest
from benchmarks.logs import write_logs

from benchmarks import data_scale, sequence_speed


def test_logs_are_the_same_each_time_and_spoilt_as_asked(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_logs(4000, tmp_path / name, broken=0.2)
    one, two = (pl.read_parquet(tmp_path / name / "interactions" / "*.parquet") for name in ("one", "two"))
    assert one.equals(two)
    assert len(one) == 4000
    assert one.null_count().row(0)[0] > 0
    assert one.is_duplicated().sum() > 100
    clean = tmp_path / "clean"
    write_logs(4000, clean)
    assert pl.read_parquet(clean / "interactions" / "*.parquet").null_count().row(0) == (0, 0, 0)


def test_every_way_gives_the_same_answer(tmp_path: Path) -> None:
    ways = [way for way in sequence_speed.WAYS if not way.startswith("DuckDB")]
    try:
        import duckdb  # noqa: F401

        ways = list(sequence_speed.WAYS)
    except ModuleNotFoundError:
        print("duckdb is not installed: its ways are left out")
    write_logs(20_000, tmp_path)
    answers = set()
    for number, way in enumerate(ways):
        out = tmp_path / str(number)
        sequence_speed.WAYS[way](tmp_path / "interactions", out)
        answers.add(sequence_speed.answer(out))
    assert len(answers) == 1


def test_report_of_a_small_run(tmp_path: Path) -> None:
    output = tmp_path / "speed.json"
    ways = [sequence_speed.OURS, "pandas, Arrow"]
    sequence_speed.main(["--rows", "20000", "--rounds", "1", "--output", str(output), "--ways", *ways])
    report = json.loads(output.read_text())
    assert report["times_slower"]["pandas, Arrow"] == pytest.approx(
        report["ways"]["pandas, Arrow"]["seconds"] / report["ways"][sequence_speed.OURS]["seconds"]
    )


def test_both_stages_account_for_every_row(tmp_path: Path) -> None:
    output = tmp_path / "scale.json"
    data_scale.main(["--rows", "20000", "--work", str(tmp_path), "--output", str(output)])
    (cell,) = json.loads(output.read_text())["sizes"]
    assert cell["rows_quarantined"] > 0
    assert cell["peak_gib"] > 0
    assert set(cell["stage_seconds"]) == set(data_scale.STAGES)
