"""Peers' frame without any peer: the exchanged split is ours, cells resume, scores are the metrics of the lists."""

import base64
import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from benchmarks.peers import all as driver
from benchmarks.peers import ours, run, score, untuned
from benchmarks.peers.cells import cell_path, read_cell, read_lists, stands, write_cell
from benchmarks.peers.exchange import Exchange, ndcg_at_10, read_exchange, top_lists, write_exchange
from benchmarks.peers.measure import measured
from benchmarks.peers.prepare import PROJECT, make_exchange, open_environment
from benchmarks.peers.registry import PEERS, SETTINGS, TRAIN_ONLY
from benchmarks.peers.run import DEFAULT_SEED
from hypothesis import given
from hypothesis import strategies as st
from kedro.framework.session import KedroSession

from prismrec.data.histories import Histories
from prismrec.data.schema import ITEM_MAP, conform
from prismrec.data.splits import leave_one_out
from prismrec.evaluation.comparison import Row
from prismrec.metrics.ranking import per_user_metrics, rank_targets
from prismrec.models.events import EventTable
from prismrec.models.rankers import PopularityRanker

ABOUT = {"name": "tiny", "title": "Tiny", "split_hash": "abc", "repeats": "first"}
SEED = 7


def tables(histories: list[list[int]], num_items: int, inactive: int) -> tuple[Histories, pl.DataFrame]:
    """Histories as our tables; item `inactive` is known, but in nobody's history."""
    items = pl.DataFrame(
        {
            "item_index": list(range(num_items)),
            "item_id": [f"i{i}" for i in range(num_items)],
            "title": ["t"] * num_items,
            "text": [""] * num_items,
            "categories": [["c"]] * num_items,
            "active": [i != inactive for i in range(num_items)],
        }
    )
    return Histories.from_lists(histories, [range(0, 10 * len(row), 10) for row in histories]), conform(items, ITEM_MAP)


def tiny(about: dict[str, str] = ABOUT) -> Exchange:
    histories, item_map = tables([[0, 2, 3, 4], [4, 3, 2, 0, 5], [5, 4, 6]], num_items=8, inactive=1)
    return make_exchange(histories, leave_one_out(histories), item_map, about)


def test_exchange_is_our_split_over_active_items(tmp_path: Path) -> None:
    write_exchange(tmp_path / "tiny", tiny())
    exchange = read_exchange(tmp_path / "tiny")
    assert exchange.item_index_N.tolist() == [0, 2, 3, 4, 5, 6, 7]
    ours_again = [exchange.item_index_N[exchange.items[a:b]].tolist() for a, b in zip([0, 4, 9], [4, 9, 12])]  # noqa: B905
    assert ours_again == [[0, 2, 3, 4], [4, 3, 2, 0, 5], [5, 4, 6]]
    assert exchange.item_index_N[exchange.targets(exchange.test_U)].tolist() == [4, 5, 6]
    assert exchange.item_index_N[exchange.targets(exchange.validation_U)].tolist() == [3, 0, 4]
    assert exchange.before(exchange.train_end_U).sum() == 2 + 3 + 1
    assert exchange.about == {**ABOUT, "users": 3, "items": 7, "events": 12}


def test_exchange_has_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_exchange(tmp_path / name, tiny())
    for file in ("events.npz", "about.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_target_in_the_history_is_refused() -> None:
    histories, item_map = tables([[0, 2, 3, 0]], num_items=4, inactive=1)
    with pytest.raises(SystemExit, match="in their own history"):
        make_exchange(histories, leave_one_out(histories), item_map, ABOUT)


def test_missing_exchange_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"benchmarks\.peers\.prepare"):
        read_exchange(tmp_path)


def test_cut_gives_the_newest_events_padded_on_the_left() -> None:
    exchange = tiny()
    items_BT, mask_BT = exchange.cut(np.array([1, 2]), np.array([4, 1]), 3)
    assert exchange.item_index_N[items_BT[0]].tolist() == [3, 2, 0]
    assert mask_BT.tolist() == [[True] * 3, [False, False, True]]
    assert exchange.item_index_N[items_BT[1, 2]] == 5


@given(st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_top_lists_are_the_stable_order(scores: list[list[int]], k: int) -> None:
    scores_BN = np.where(np.array(scores) == -2, -np.inf, np.array(scores, dtype=np.float64))
    expected = np.argsort(-scores_BN, axis=1, kind="stable")[:, :k]
    expected = np.where(np.isneginf(np.take_along_axis(scores_BN, expected, 1)), -1, expected)
    assert top_lists(scores_BN, k).tolist() == expected.tolist()


def test_scores_of_lists_are_the_metrics_of_the_scores() -> None:
    scores_BN = torch.rand(50, 200, generator=torch.Generator().manual_seed(SEED))
    targets_B1 = torch.randint(200, (50, 1), generator=torch.Generator().manual_seed(SEED))
    lists_BK = top_lists(scores_BN.numpy())
    expected = per_user_metrics(rank_targets(scores_BN, targets_B1, torch.ones_like(targets_B1, dtype=torch.bool)))
    found = score.metrics_of(score.places(lists_BK, targets_B1[:, 0].numpy()))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12, err_msg=name)
    assert ndcg_at_10(lists_BK, targets_B1[:, 0].numpy()) == pytest.approx(expected["ndcg@10"].mean())


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[4, 4], [6, 5], [0, 1]], "twice"),
        ([[4, 5], [6, 0], [0, 1]], "history"),
        ([[4, 5], [6, 5]], "one a user"),
        ([[4, 7], [6, 5], [0, 1]], "one a user"),
    ],
)
def test_what_peers_hand_in_is_checked(lists: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run.check_lists(tiny(), np.array(lists))
    run.check_lists(tiny(), np.array([[4, 5], [6, -1], [-1, -1]]))


def test_cell_stands_until_split_budget_or_settings_change(tmp_path: Path) -> None:
    peer = PEERS["rectools_sasrec"]
    identity = run.identity_of("rectools_sasrec", peer, tiny(), (1, 20.0), SEED)
    path = cell_path(tmp_path, "tiny", "rectools_sasrec", SEED)
    assert not stands(read_cell(path), identity)
    write_cell(path, {**identity, "failed": "why not"})
    assert stands(read_cell(path), identity)
    assert read_lists(path) is None
    assert not stands(read_cell(path), {**identity, "split_hash": "other"})
    assert not stands(read_cell(path), {**identity, "budget_seconds": 40.0})
    other = peer._replace(short=[{**peer.short[0], "lr": 0.5}])
    assert not stands(read_cell(path), run.identity_of("rectools_sasrec", other, tiny(), (1, 20.0), SEED))
    untried = peer._replace(short=[peer.short[0], {"lr": 0.5}])  # what no trial takes changes nothing
    assert stands(read_cell(path), run.identity_of("rectools_sasrec", untried, tiny(), (1, 20.0), SEED))


def test_best_trial_is_chosen_on_validation() -> None:
    def train(peer: str, exchange: Exchange, settings: dict[str, float], seconds: float, seed: int) -> run.Trained:
        return run.Trained(settings["x"], 2, [], lambda: np.zeros((3, 1)), {})

    best, record = run.best_trial(train, "p", tiny(), [{"x": 0.1}, {"x": 0.3}, {"x": 0.2}], (5.0, SEED))
    assert best.settings == {"x": 0.3}
    assert [trial["validation_ndcg@10"] for trial in record] == [0.1, 0.3, 0.2]


def test_every_peer_has_settings_and_a_module() -> None:
    folder = Path(run.__file__).parent
    for name, peer in PEERS.items():
        assert (folder / f"{peer.module}.py").is_file(), name
        for kind in ("long", "short"):
            settings = peer.settings(kind, SETTINGS)
            assert all(settings.count(one) == 1 for one in settings), name
            if peer.package == "RecTools" and peer.family == "neural":  # the default budget holds what a CPU affords
                assert "softmax" in [one["loss"] for one in settings[: run.DEFAULT_TRIALS]], name
        with pytest.raises(SystemExit, match="is more"):
            peer.settings("long", 99)
    assert [name for name, peer in PEERS.items() if peer.time == "aware"] == ["rectools_hstu_time"]


def test_peer_without_environment_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PROJECT", tmp_path)
    options = driver.argparse.Namespace(trials=1, budget_seconds=1.0, retry=False, results=tmp_path / "results")
    outcome = driver.run_peer("rectools_ease", tmp_path, tiny(), tmp_path / "cells", options, SEED)
    assert outcome == "skipped: .venv-peers is not installed"


def fake_interpreter(project: Path, script: str) -> None:
    python = project / ".venv-peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)


def test_driver_says_what_became_of_a_peer_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PROJECT", tmp_path)
    fake_interpreter(tmp_path, "echo its last words; exit 3")
    options = driver.argparse.Namespace(trials=1, budget_seconds=1.0, retry=False, results=tmp_path / "results")
    assert driver.run_peer("rectools_ease", tmp_path, tiny(), tmp_path / "cells", options, SEED).startswith("failed")
    path = cell_path(tmp_path / "cells", "tiny", "rectools_ease", SEED)
    assert (read_cell(path) or {})["failed"] == "ended with 3, without a word"
    assert path.with_suffix(".log").read_text(encoding="utf-8") == "its last words\n"
    committed = cell_path(options.results, "tiny", "rectools_ease", SEED)
    write_cell(committed, read_cell(path) or {})
    path.unlink()
    assert driver.run_peer("rectools_ease", tmp_path, tiny(), tmp_path / "cells", options, SEED) == "is there"
    assert driver.run_peer("rectools_ease", tmp_path, tiny(), tmp_path / "cells", options, SEED) == "is there"


def test_driver_runs_failed_cells_again_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PROJECT", tmp_path)
    fake_interpreter(tmp_path, "exit 3")
    options = driver.argparse.Namespace(trials=1, budget_seconds=1.0, retry=False, results=tmp_path / "results")

    def again(retry: bool) -> str:
        options.retry = retry
        return driver.run_peer("rectools_ease", tmp_path, tiny(), tmp_path / "cells", options, SEED)

    path = cell_path(tmp_path / "cells", "tiny", "rectools_ease", SEED)
    committed = cell_path(options.results, "tiny", "rectools_ease", SEED)
    good = run.identity_of("rectools_ease", PEERS["rectools_ease"], tiny(), (1, 1.0), SEED)
    write_cell(path, {**good, "failed": "no disk"})
    write_cell(committed, {**good, "failed": "no disk"})
    assert again(retry=False) == "is there"
    assert again(retry=True).startswith("failed")
    assert (read_cell(path) or {})["failed"] == "ended with 3, without a word"
    write_cell(committed, good)
    assert again(retry=True) == "is there"


def test_driver_ends_a_peer_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PROJECT", tmp_path)
    monkeypatch.setattr(driver, "GRACE", 0.0)
    fake_interpreter(tmp_path, "exec sleep 60")
    options = driver.argparse.Namespace(trials=1, budget_seconds=0.2, retry=False, results=tmp_path / "results")
    outcome = driver.run_peer("rectools_ease", tmp_path, tiny(), tmp_path / "cells", options, SEED)
    assert outcome == "did not end"
    cell = read_cell(cell_path(tmp_path / "cells", "tiny", "rectools_ease", SEED))
    assert "did not end within 0.2 s" in (cell or {})["failed"]


def test_driver_prepares_again_when_the_split_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("abc", "def"):
        monkeypatch.setattr(driver, "load", lambda _, split=split: tiny({**ABOUT, "split_hash": split}))
        [(path, _)] = driver.exchanges(["any"], tmp_path)
        assert read_exchange(path).about["split_hash"] == split


@pytest.mark.parametrize("works", [True, False])
def test_run_writes_a_cell_once(
    works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(peer: str, exchange: Exchange, settings: dict[str, float], seconds: float, seed: int) -> run.Trained:
        if not works:
            raise RuntimeError("no such thing")
        return run.Trained(0.5, 1, [], lambda: np.full((3, 100), -1), {})

    monkeypatch.setitem(sys.modules, "benchmarks.peers.rectools_peers", SimpleNamespace(train=train))
    monkeypatch.setattr(run.metadata, "version", lambda package: "1.0")
    write_exchange(tmp_path / "tiny", tiny())
    words = ["--peer", "rectools_ease", "--data", str(tmp_path / "tiny"), "--out", str(tmp_path / "cells")]
    monkeypatch.setattr(sys, "argv", ["run", *words, "--trials", "2"])
    assert run.main() == (0 if works else 1)
    path = cell_path(tmp_path / "cells", "tiny", "rectools_ease", run.DEFAULT_SEED)
    cell = read_cell(path) or {}
    if works:
        assert cell["settings"] == {"regularization": 500.0}
        assert len(cell["tried"]) == 2
        assert read_lists(path) is not None
    else:
        assert cell["failed"] == "RuntimeError: no such thing"
    before = path.read_bytes()
    assert run.main() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_tables_of_our_rows_and_a_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exchange, cells, results = tiny(), tmp_path / "cells", tmp_path / "results" / "peers"
    write_exchange(tmp_path / "exchange" / "tiny", exchange)
    active_N = torch.ones(8, dtype=torch.bool)
    active_N[1] = False
    events = EventTable(exchange.offsets, exchange.item_index_N[exchange.items], exchange.timestamps)
    ranker = PopularityRanker(np.bincount(exchange.item_index_N[exchange.items], minlength=8), active_N)
    rows = {
        "hymirec_time_free": Row(ranker, events, "HyMiRec", "prismrec", "free"),
        "hymirec": Row(ranker, events, "HyMiRec", "prismrec", "aware"),
        f"{ours.UNTUNED}_time_free": Row(ranker, events, "HyMiRec, untuned", "prismrec", "free"),
    }
    ours.write_rows(rows, exchange, 8, cells, tmp_path / "workspace", SEED)
    free = read_lists(cell_path(cells, "tiny", "prismrec_hymirec_time_free", SEED))
    assert free is not None
    run.check_lists(exchange, free)
    perfect = np.full((3, 100), -1)
    perfect[:, 0] = exchange.targets(exchange.test_U)
    cell = {
        **run.identity_of("rectools_sasrec", PEERS["rectools_sasrec"], exchange, (1, 20.0), SEED),
        "epochs": 1.5,
        "training": {"seconds": 20.0, "cpu_seconds": 30.0, "peak_mb": None},
        "recommending": {"users_per_second": 10.0},
    }
    write_cell(cell_path(cells, "tiny", "rectools_sasrec", SEED), cell, perfect)
    failed = {**cell, "peer": "rectools_ease", "label": "RecTools EASE", "failed": "MemoryError: too big"}
    write_cell(cell_path(cells, "tiny", "rectools_ease", SEED), failed)
    capsys.readouterr()
    score.score_all(tmp_path / "exchange", cells, results)
    table = capsys.readouterr().out
    first = results.with_suffix(".md").read_text(encoding="utf-8")
    assert table.strip() == first.strip()
    lines = table.splitlines()
    assert lines[lines.index("### " + score.HEADINGS["free"]) + 6].startswith(
        "| RecTools SASRec | training | 7 | 1.0000 [1.0"
    )
    assert "- RecTools EASE: MemoryError: too big" in lines
    assert "1 × 20 s" in table
    scored = read_cell(results / "tiny" / f"rectools_sasrec-{SEED}.json")
    assert scored is not None
    assert scored["metrics"]["mrr@100"] == 1.0
    assert scored["paired"]["against"] == "prismrec_hymirec_time_free"
    assert scored["paired"]["low"] >= 0
    assert scored["paired_untuned"] == {**scored["paired"], "against": f"prismrec_{ours.UNTUNED}_time_free"}
    assert "No Δ" not in table
    assert "over all orders instead" in table
    assert sum("| training, counts: all |" in line for line in lines) == 2, "HyMiRec's rows"
    assert any(line.startswith("| **prismrec HyMiRec, untuned** | training |") for line in lines)
    assert score.read_places(scored).tolist() == [1, 1, 1]
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["tiny"]) == {
        f"{n}-{SEED}" for n in (*(f"prismrec_{row}" for row in rows), "rectools_sasrec", "rectools_ease")
    }
    # Without the lists, later: the figures stand, and a cell of today is compared with those of then.
    later = {**cell, "peer": "recbole_sasrec", "label": "RecBole SASRec"}
    write_cell(cell_path(tmp_path / "today", "tiny", "recbole_sasrec", SEED), later, perfect)
    score.score_all(tmp_path / "exchange", tmp_path / "today", results)
    today = read_cell(results / "tiny" / f"recbole_sasrec-{SEED}.json")
    assert today is not None
    assert today["paired"] == scored["paired"]
    assert today["paired_untuned"] == scored["paired_untuned"]
    (results / "tiny" / f"recbole_sasrec-{SEED}.json").unlink()
    score.score_all(tmp_path / "exchange", tmp_path / "no cells", results)
    assert results.with_suffix(".md").read_text(encoding="utf-8") == first  # committed figures stand without lists


def scored_cell(peer: str, label: str, family: str, budget: tuple[int, float | None], seed: int) -> dict[str, object]:
    metrics = dict.fromkeys(("hr@10", "ndcg@10", "mrr@10", "hr@50", "ndcg@50", "coverage@10"), 0.5)
    return {
        **run.identity_of("rectools_sasrec", PEERS["rectools_sasrec"], tiny(), (1, 1.0), seed),
        "peer": peer,
        "label": label,
        "family": family,
        "trials": budget[0],
        "budget_seconds": budget[1],
        "metrics": metrics,
        "intervals": {name: [0.4, 0.6] for name in metrics},
        "epochs": None,
        "training": {"seconds": budget[1], "peak_mb": None},
        "recommending": {"users_per_second": 1.0},
    }


def test_tables_say_which_budget_was_larger() -> None:
    """Ours are booked with the settings tried until today, whatever the cell says, and the seconds that it trained."""
    cells = [
        scored_cell("rectools_sasrec", "RecTools SASRec", "neural", (2, 1200), SEED),
        scored_cell("prismrec_sasrec", "prismrec's SASRec", "baseline", (9, 1100), SEED),
        scored_cell("prismrec_hymirec_time_free", "**prismrec HyMiRec**", "prismrec", (9, 1000), SEED),
        scored_cell("prismrec_popularity", "prismrec's popularity", "heuristic", (1, None), SEED),
    ]
    for cell in cells:
        cell["data_set"] = "ml1m"
    lines = score.as_markdown({"ml1m": cells}).splitlines()
    assert "Tuning budget of each neural peer, settings × wall clock: 2 × 1,200 s." in lines
    known = ours.TUNED["ml1m"]
    budgets = f"prismrec HyMiRec {known['hymirec']} × 1,000 s; prismrec's SASRec {known['sasrec']} × 1,100 s"
    assert f"Ours, settings tried × seconds that the kept one trained: {budgets}." in lines
    within, beyond = (lines.index(f"#### {heading}") for heading in score.BUDGETS.values())
    assert within < beyond
    # Settings tried at unknown cost count as more.
    for cell, seconds, place in ((cells[2], 1000, beyond), (cells[1], 10, within), (cells[1], None, beyond)):
        cell["training"] = {"seconds": seconds, "peak_mb": None}
        shown = score.as_markdown({"ml1m": cells}).splitlines()
        row = next(number for number, line in enumerate(shown) if line.startswith(f"| {cell['label']} "))
        heading = next(line for line in reversed(shown[:row]) if line.startswith("####"))
        assert heading == lines[place], (cell["label"], seconds)
    for label in ("RecTools SASRec", "prismrec's popularity"):
        row = next(number for number, line in enumerate(lines) if line.startswith(f"| {label} "))
        assert within < row < beyond


def test_table_without_a_peer_says_so() -> None:
    cells = [scored_cell("prismrec_hymirec_time_free", "**prismrec HyMiRec**", "prismrec", (1, 9.0), SEED)]
    headings = [line for line in score.as_markdown({"tiny": cells}).splitlines() if line.startswith("####")]
    assert headings == [f"#### {score.NO_PEER}"]


def test_tables_say_which_of_our_rows_is_missing() -> None:
    ours_of_7 = scored_cell("prismrec_hymirec_time_free", "**prismrec HyMiRec**", "prismrec", (1, None), 7)
    cells = [ours_of_7, *(scored_cell("rectools_sasrec", "SASRec", "neural", (2, 9.0), seed) for seed in (7, 8))]
    note = "No Δ for rows that would be compared with `prismrec_hymirec_time_free-8`: not measured."
    assert note in score.as_markdown({"tiny": cells}).splitlines()
    assert "No Δ" not in score.as_markdown({"tiny": cells[:2]})


def seed_cell(peer: str, seed: int, places: list[int]) -> dict[str, object]:
    """A cell whose users found their target there; 0: not at all."""
    packed = base64.b64encode(zlib.compress(bytes(places))).decode("ascii")
    cell = scored_cell(peer, peer, "prismrec", (1, None), seed)
    metrics = {name: float(values_U.mean()) for name, values_U in score.metrics_of(np.array(places, np.uint8)).items()}
    return {**cell, "places": packed, "metrics": {**metrics, "coverage@10": 0.5}}


def test_several_seeds_are_told_as_mean_range_and_difference_of_means() -> None:
    reference = "prismrec_hymirec_time_free"
    cells = [
        *(seed_cell(reference, seed, places) for seed, places in ((SEED, [1, 0, 0]), (8, [1, 1, 0]))),
        *(seed_cell("prismrec_sasrec", seed, places) for seed, places in ((SEED, [1, 1, 0]), (8, [1, 1, 1]))),
        seed_cell("prismrec_popularity", SEED, [0, 0, 1]),
    ]
    lines = score.as_markdown({"tiny": cells}).splitlines()
    place = lines.index("#### Over seeds")
    shown = [line.split(" | ") for line in lines[place + 4 : lines.index("", place + 2)]]
    assert [row[0] for row in shown] == ["| prismrec_sasrec", f"| {reference}"], "only rows of several, best mean first"
    sasrec, hymirec = shown
    assert sasrec[1:5] == [f"{SEED}, 8", *["0.8333 (0.6667 to 1.0000)"] * 3]
    # User by user the means over seeds are 1, 1, .5 and 1, .5, 0.
    assert sasrec[5].startswith("+0.3333 [+0.0000, +0.5000]")
    assert sasrec[6] == "+0.3333, +0.3333 |"
    assert hymirec[5:] == ["–", "– |"]
    tables = lines[:place]
    assert sum(line.startswith("| prismrec_sasrec ") for line in tables) == 1, "the tables show one seed"
    assert "#### Over seeds" not in score.as_markdown({"tiny": cells[:1]}).splitlines()


def test_usual_seed_is_the_one_that_tables_show() -> None:
    cells = [seed_cell("prismrec_sasrec", seed, [1]) for seed in (1, DEFAULT_SEED, 2)]
    assert [cell["seed"] for cell in score._one_each(cells)] == [DEFAULT_SEED]
    assert [cell["seed"] for cell in score._one_each([cells[2], cells[0]])] == [1]


def test_our_cells_carry_our_tuning_budget(tmp_path: Path) -> None:
    exchange = tiny({**ABOUT, "name": "ml1m"})
    active_N = torch.ones(8, dtype=torch.bool)
    events = EventTable(exchange.offsets, exchange.item_index_N[exchange.items], exchange.timestamps)
    ranker = PopularityRanker(np.ones(8, np.int64), active_N)
    names = ("hymirec_time_free", "popularity")
    rows = {name: Row(ranker, events, name, "prismrec", "free") for name in names}
    ours.write_rows(rows, exchange, 8, tmp_path, tmp_path / "workspace", SEED)
    found = [read_cell(cell_path(tmp_path, "ml1m", f"prismrec_{name}", SEED)) or {} for name in names]
    assert [cell["trials"] for cell in found] == [ours.TUNED["ml1m"]["hymirec"], 1]
    assert [cell["trains_on"] for cell in found] == [ours.COUNTS_ALL, ours.COUNTED_ROW]
    assert all({*rows, ours.UNTUNED} == {*ours.STAGES, *ours.NODES} for rows in ours.TUNED.values())
    assert ours.trials_of("another", "hymirec") == 1


def test_untuned_cells_carry_what_their_training_took(tmp_path: Path) -> None:
    for stage in ours.HYMIREC:
        folder = tmp_path / "08_reporting" / "manifests" / stage / "1"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"seconds": 10.0, "peak_rss_mb": 100.0}))
    exchange = tiny()
    events = EventTable(exchange.offsets, exchange.item_index_N[exchange.items], exchange.timestamps)
    row = Row(PopularityRanker(np.ones(8, np.int64), torch.ones(8, dtype=torch.bool)), events, "h", "prismrec", "free")
    name = f"{ours.UNTUNED}_time_free"
    ours.write_rows({name: row}, exchange, 8, tmp_path, tmp_path, SEED, {"settings_hash": "abc"})
    cell = read_cell(cell_path(tmp_path, "tiny", f"prismrec_{name}", SEED)) or {}
    assert (cell["trials"], cell["budget_seconds"], cell["settings_hash"]) == (1, 30.0, "abc")


def test_untuned_settings_are_those_that_every_data_set_starts_from() -> None:
    settings = untuned.base_settings()
    assert tuple(settings) == ours.HYMIREC
    assert settings == {stage: open_environment("ml100k")[2][stage] for stage in ours.HYMIREC}  # has none of its own
    assert settings["llm_recommender"] != open_environment("ml1m")[2]["llm_recommender"]


def test_untuned_row_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = untuned.base_settings()
    opened = (None, {"workspace": "tiny", "workspaces": "w"}, {"evaluation": {"seed": SEED}, **settings})
    monkeypatch.setattr(untuned, "open_environment", lambda environment: opened)
    trained: list[str] = []

    def train(environment: str, settings: dict[str, object]) -> None:
        trained.append(environment)
        raise KeyboardInterrupt

    monkeypatch.setattr(untuned, "train", train)
    write_exchange(tmp_path / "exchange" / "tiny", tiny())
    folders = (tmp_path / "exchange", tmp_path / "cells", tmp_path / "results")
    cell = {"split_hash": "abc", "settings_hash": untuned.hash_of(settings), "trains_on": TRAIN_ONLY}
    path = cell_path(tmp_path / "results", "tiny", f"prismrec_{ours.UNTUNED}_time_free", SEED)
    write_cell(path, cell)
    assert untuned.write_environment("any", *folders) == "is there"
    for stale in ({**cell, key: "old"} for key in cell):
        write_cell(path, stale)
        with pytest.raises(KeyboardInterrupt):
            untuned.write_environment("any", *folders)
    assert trained == ["any"] * len(cell)


def test_untuned_settings_replace_those_of_an_environment() -> None:
    settings = untuned.base_settings()
    with KedroSession.create(PROJECT, env="beauty", runtime_params=settings) as session:
        parameters = session.load_context().config_loader["parameters"]
    assert {stage: parameters[stage] for stage in settings} == settings
    assert parameters["data_validation"]["folder"] == "amazon14-beauty"


def test_cell_of_another_split_is_not_scored(tmp_path: Path) -> None:
    cell = run.identity_of("rectools_sasrec", PEERS["rectools_sasrec"], tiny(), (1, 20.0), SEED)
    write_cell(cell_path(tmp_path, "tiny", "rectools_sasrec", SEED), {**cell, "split_hash": "old"}, np.zeros((3, 1)))
    with pytest.raises(SystemExit, match="another split"):
        score.score_data_set(tiny(), tmp_path, tmp_path / "results")


def test_training_cost_sums_the_stages_of_a_row(tmp_path: Path) -> None:
    for stage, seconds, peak in (
        ("lightweight_encoder", 10.0, 300.0),
        ("codebook", 1.0, 900.0),
        ("llm_recommender", 5.5, 400.0),
    ):
        for version, factor in (("2026-01-01", 9), ("2026-01-02", 1)):
            folder = tmp_path / "08_reporting" / "manifests" / stage / version
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(json.dumps({"seconds": seconds * factor, "peak_rss_mb": peak}))
    assert ours.training_cost(tmp_path, "hymirec_time_free")["seconds"] == 16.5
    assert ours.training_cost(tmp_path, "hymirec")["peak_mb"] == 900.0
    assert ours.training_cost(tmp_path, "gemirec")["seconds"] is None
    assert ours.training_cost(tmp_path, "popularity")["seconds"] is None


def test_training_cost_counts_nodes_that_the_latest_run_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "08_reporting" / "manifests" / "lightweight_encoder"
    runs = ({"embed": 2.0, "train": 30.0}, {"embed": 1.0, "train": 20.0}, {"train": 25.0})
    for version, nodes in enumerate(runs):
        (folder / str(version)).mkdir(parents=True)
        record = {"seconds": sum(nodes.values()), "peak_rss_mb": 100.0 - version, "node_seconds": nodes}
        (folder / str(version) / "run.json").write_text(json.dumps(record))
    found = ours.training_cost(tmp_path, "lightweight_encoder")
    assert (found["seconds"], found["peak_mb"]) == (26.0, 99.0)


def test_training_cost_of_a_node_skips_older_records_without_its_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "08_reporting" / "manifests" / "evaluation"
    for version, record in (("1", {"node_seconds": {"train_sasrec": 3.5}}), ("2", {})):
        (folder / version).mkdir(parents=True)
        (folder / version / "run.json").write_text(json.dumps({"seconds": 9.0, "peak_rss_mb": 100.0, **record}))
    assert ours.training_cost(tmp_path, "sasrec") == {"seconds": 3.5, "cpu_seconds": None, "peak_mb": 100.0}
    assert ours.training_cost(tmp_path, "comirec")["seconds"] is None


def test_measured_counts_this_works_memory() -> None:
    result, cost = measured(lambda: np.ones(2**24).sum())
    assert result == 2**24
    assert cost.peak_mb is None or cost.peak_mb > 2**27 / 1e6
    assert cost.seconds > 0
