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
    row["chains"] = [{"items_barely_moved_share": 0.1, "barely_moved_changed": row["barely_moved_changed"]}]
    cases = {name: {m: pack(found[m]) for m in METRICS} for name, found in rows(refreshed, 0.5).items()}
    return {**row, "full": {"cpu_seconds": 20.0}, "of_cases": cases}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"cpu_seconds": 3.1}, False),
        ({"barely_moved_changed": 0.06}, True),
        ({"barely_moved_changed": 0.1}, False),
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
        for chain in range(options.seeds):
            folders.made(chain, number).mkdir(exist_ok=True)
        found = day(number)
        return found if full else {key: value for key, value in found.items() if key not in ("full", "of_cases")}

    class Stage:
        facts = {"cpu_seconds": 20.0}  # noqa: RUF012

        def save(self, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(stage_refresh, "load_world", lambda *_: world())
    monkeypatch.setattr(stage_refresh, "STAGES", ())
    monkeypatch.setattr(stage_refresh, "seeded", lambda *_: None)
    monkeypatch.setattr(stage_refresh.Base, "of", lambda *_: None)
    monkeypatch.setattr(stage_refresh, "run_stage", lambda *_: Stage())
    monkeypatch.setattr(stage_refresh, "run_day", run_day)
    options = Namespace(
        workspace=Path("demo"), env="base", first_day=5, refreshes=2, full_days=[1], seeds=2,
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


def test_a_day_is_the_mean_of_its_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chain goes on with its own day before; costs and figures are means, and the worst chain's items count."""
    began: list[tuple[int, Path | None]] = []

    class Stage:
        def __init__(self, seed: int, refreshed: bool) -> None:
            self.seed, self.refreshed = seed, refreshed
            self.facts = {"cpu_seconds": 1.0 + seed if refreshed else 30.0, "kind": "refreshed", "refreshed": True}
            share = {"barely_moved_changed_share": 0.01 * (seed + 1)}
            self.drift = {"items_barely_moved": 1, "items_in_both": 2, **share}

        def save(self, folder: Path) -> None:
            folder.mkdir(parents=True)

    def run_stage(base: Any, seed: int, previous: Path | None) -> Stage:
        began.append((seed, previous))
        return Stage(seed, previous is not None)

    def rank(world: World, number: int, window: int, base: Any, made: Stage) -> dict[str, np.ndarray]:
        value = 0.4 + 0.1 * made.seed if made.refreshed else 0.5
        return dict.fromkeys(METRICS, np.full(4, value))

    folders = Folders(tmp_path / "upstream", tmp_path / "chain")
    for name, fake in (("run_stage", run_stage), ("rank", rank), ("seeded", lambda world, seed: seed)):
        monkeypatch.setattr(stage_refresh, name, fake)
    monkeypatch.setattr(stage_refresh.Base, "of", lambda *_: None)
    monkeypatch.setattr(stage_refresh.Made, "load", lambda folder: Stage(int(folder.parent.name), refreshed=False))
    options = Namespace(first_day=5, seeds=3, upstream="daily", window=3)
    row = stage_refresh.run_day(world(), 7, options, folders, full=True)
    assert began[:3] == [(number, tmp_path / "chain" / str(number) / "6") for number in range(3)]
    assert began[3:] == [(number, None) for number in range(3)]
    assert row["cpu_seconds"] == 2.0
    assert row["full"]["cpu_seconds"] == 30.0
    assert row["barely_moved_changed"] == pytest.approx(0.03)
    assert row["figures"]["ndcg@10"]["to_full"]["refreshed"] == pytest.approx(1.0)
    assert [found["ndcg@10"] for found in row["seeds"]["refreshed"]] == pytest.approx([0.4, 0.5, 0.6])
    assert all(folders.made(number, 7).is_dir() for number in range(3))
    assert "refreshed" in stage_refresh.as_table({"days": [row], "summary": {}})


def test_items_that_barely_moved_count_over_all_refreshes() -> None:
    """One of two on a day when there were two, none of ninety-eight on another."""
    few, many = day(1), day(2)
    few["chains"] = [{"items_barely_moved_share": 0.002, "barely_moved_changed": 0.5}]
    many["chains"] = [{"items_barely_moved_share": 0.098, "barely_moved_changed": 0.0}]
    few["barely_moved_changed"] = 0.5
    found = summary([few, many], {"cpu_seconds": 20.0})
    assert found["barely_moved_changed"] == pytest.approx(0.01)
    assert found["barely_moved_changed_worst"] == 0.5
    assert found["passes"]
