"""The benchmark of stage 6's refresh: what a morning knows, its arithmetic, and that it goes on where it stopped."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from benchmarks.ablations.make import pack
from benchmarks.stage_refresh import METRICS, Folders, Morning, World, compare, summary

from benchmarks import stage_refresh
from prismrec.data.histories import Histories

ITEMS = 60


def world() -> World:
    """Forty users who walk from item to item, two events a day over twelve days; the last ten begin on day six."""
    histories = Histories.from_lists([[(5 * user + step) % ITEMS for step in range(24)] for user in range(40)])
    day_E = np.tile(np.arange(24) // 2, 40)
    day_E[30 * 24 :] += 6
    items = pl.DataFrame({"item_id": [str(item) for item in range(ITEMS)], "active": [True] * ITEMS})
    return World(histories, day_E, np.repeat(np.arange(40), 24), items, {}, {})


def test_a_morning_knows_no_later_event() -> None:
    known = Morning.of(world(), 2)
    assert known.histories.lengths.tolist() == [4] * 30, "users with three events or more"
    assert known.splits.get_column("train_end").to_list() == [3] * 30
    assert known.splits.get_column("validation_end").to_list() == [4] * 30
    met = {int(item) for item in known.histories.items}
    assert {index for index, active in enumerate(known.item_map.get_column("active")) if active} == met
    assert len(Morning.of(world(), 8).histories) == 40


def rows(refreshed: float, full: float) -> dict[str, dict[str, np.ndarray]]:
    return {
        name: dict.fromkeys(METRICS, np.full(8, value))
        for name, value in (("refreshed", refreshed), ("full", full), ("first_day", 0.1))
    }


def test_figures_are_compared_with_the_full_training() -> None:
    found = compare(rows(0.45, 0.5))
    assert found["cases"] == 8
    assert found["ndcg@10"]["to_full"] == {"refreshed": 0.9, "full": 1.0, "first_day": 0.2}
    assert found["hr@10"]["minus_full"]["refreshed"] == pytest.approx([-0.05] * 3)


def day(number: int, refreshed: float = 0.5, **changes: Any) -> dict[str, Any]:
    row = {"day": number, "refreshed": True, "cpu_seconds": 1.0, "barely_moved_changed": 0.01, **changes}
    cases = {name: {m: pack(found[m]) for m in METRICS} for name, found in rows(refreshed, 0.5).items()}
    return {**row, "full": {"cpu_seconds": 20.0, "seeds": [{}]}, "of_cases": cases}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"cpu_seconds": 3.1}, False),
        ({"barely_moved_changed": 0.06}, False),
        ({"refreshed": False}, False),
    ],
)
def test_all_bars_have_to_hold(change: dict[str, Any], expected: bool) -> None:
    found = summary([day(1), day(2, **change)], {"cpu_seconds": 20.0})
    assert found["passes"] is expected


def test_full_days_count_together() -> None:
    found = summary([day(1, refreshed=0.48), day(2, refreshed=0.52)], {"cpu_seconds": 20.0})
    assert found["figures"]["cases"] == 16
    assert found["figures"]["recall@50"]["to_full"]["refreshed"] == pytest.approx(1.0)
    assert found["passes"]
    assert not summary([day(1, refreshed=0.48)], {"cpu_seconds": 20.0})["passes"]


def test_a_day_that_is_there_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def run_day(world: World, number: int, options: Namespace, folders: Folders, full: bool) -> dict[str, Any]:
        ran.append(number)
        (folders.chain / str(number)).mkdir(exist_ok=True)
        found = day(number)
        return found if full else {key: value for key, value in found.items() if key not in ("full", "of_cases")}

    class Stage:
        facts = {"cpu_seconds": 20.0}  # noqa: RUF012

        def save(self, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(stage_refresh, "load_world", lambda *_: world())
    monkeypatch.setattr(stage_refresh, "STAGES", ())
    monkeypatch.setattr(World, "parameters", lambda *_: None)
    monkeypatch.setattr(stage_refresh.Base, "of", lambda *_: None)
    monkeypatch.setattr(stage_refresh, "run_stage", lambda *_: Stage())
    monkeypatch.setattr(stage_refresh, "run_day", run_day)
    options = Namespace(
        workspace=Path("demo"), env="base", first_day=5, refreshes=2, full_days=[1], full_seeds=1,
        upstream="daily", window=3, work=tmp_path / "work", results=tmp_path,
    )  # fmt: skip
    stage_refresh.run(options)
    assert ran == [6, 7]
    options.refreshes = 3
    report = stage_refresh.run(options)
    assert ran == [6, 7, 8]
    options.full_days = [1, 3]
    stage_refresh.run(options)
    assert ran == [6, 7, 8, 8], "a day that is now to be compared"
    assert [row["day"] for row in report["days"]] == [6, 7, 8]
    options.window = 4
    stage_refresh.run(options)
    assert ran[4:] == [6, 7, 8], "other settings, other figures"
