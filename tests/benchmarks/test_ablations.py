"""Ablations: cells are valid, parts are shared, figures belong to their users, what stands is not run again."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from benchmarks.ablations import make, report, run
from benchmarks.ablations.cells import CELLS, ENVIRONMENTS, REFERENCE, STAGES, Cell, Times, settings_of, why_not
from benchmarks.ablations.make import Data, Once, Parts, pack, unpack
from benchmarks.peers.cells import read_cell, write_cell
from kedro.config import OmegaConfigLoader

from prismrec.data.histories import Histories
from prismrec.data.schema import ITEM_MAP, conform
from prismrec.data.splits import leave_one_out
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker
from prismrec.parameters.codebook import CodebookParameters
from prismrec.settings import CONFIG_LOADER_ARGS
from training.small import NUM_ITEMS, Walks, encoder_parameters, random_lengths, recommender_parameters, training

SEED = 3
CONF = Path(run.PROJECT) / "conf"
PARTS = ("encoder", "codebook", "recommender")


def configured(environment: str) -> dict[str, Any]:
    loader = OmegaConfigLoader(str(CONF), env=ENVIRONMENTS[environment], **CONFIG_LOADER_ARGS)
    parameters: dict[str, Any] = loader["parameters"]
    return parameters


@pytest.mark.parametrize("environment", list(ENVIRONMENTS))
def test_every_cell_is_valid_and_another_than_the_reference(environment: str) -> None:
    parameters = configured(environment)
    before = repr(parameters)
    seen = []
    for cell in CELLS.values():
        settings = settings_of(cell, environment, parameters, SEED)
        if why_not(cell, environment, parameters, SEED) is None:
            seen.append(settings)
    assert all(seen.count(settings) == 1 for settings in seen)
    assert len(seen) >= 25
    assert repr(parameters) == before, "the environment's own parameters stay"


def test_a_cell_changes_what_it_names_and_all_cells_share_epochs_and_seed() -> None:
    parameters = configured("ml1m")
    reference = settings_of(CELLS[REFERENCE], "ml1m", parameters, SEED)
    halved = settings_of(CELLS["recent_half"], "ml1m", parameters, SEED)
    assert halved["llm_recommender"].pop("recent_length") * 2 == reference["llm_recommender"].pop("recent_length")
    assert halved == reference
    assert [reference[stage]["seed"] for stage in STAGES] == [SEED] * 3
    assert reference["llm_recommender"]["training"]["epochs"] < parameters["llm_recommender"]["training"]["epochs"]
    odd = Cell("odd", "", {"codebook.codes": Times(0.5)})
    assert settings_of(odd, "demo", configured("demo"), SEED)["codebook"]["codes"] == 128


def test_cells_that_say_nothing_are_left_out_with_a_word() -> None:
    parameters = configured("demo")
    assert why_not(CELLS[REFERENCE], "demo", parameters, SEED) is None
    assert why_not(CELLS["k_4"], "demo", parameters, SEED) == "it is the reference here"
    assert why_not(CELLS["packaged_full"], "demo", parameters, SEED) is None
    assert "one core" in (why_not(CELLS["packaged_full"], "ml1m", configured("ml1m"), SEED) or "")


def test_words_do_not_change_the_version_of_the_code() -> None:
    plain = 'def f(x):\n    """Doubles."""\n    return x * 2\n'
    assert make._without_words(plain) == make._without_words('def f(x):  # why\n    """Twice."""\n\n    return x * 2\n')
    assert make._without_words(plain) != make._without_words(plain.replace("2", "3"))


def test_packed_figures_come_back() -> None:
    values = np.random.default_rng(0).random(100)
    np.testing.assert_allclose(unpack(pack(values)), values, atol=1e-7)


class Counting(Ranker):
    """Scores that say whom they are of."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (users_B[:, None] + torch.zeros(1, 4)).float()


def test_a_ranker_scores_the_same_users_once() -> None:
    events = EventTable(np.array([0, 1, 2]), np.array([0, 1]), None)
    ranker = Counting()
    once = Once(ranker)
    users, other, ends = torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([1, 1])
    once.scores(events, users, ends).fill_(-torch.inf)  # what is done to one row's scores stays there
    assert once.scores(events, users, ends)[:, 0].tolist() == [0, 1]
    assert ranker.calls == 1
    assert once.scores(events, other, ends)[:, 0].tolist() == [1, 1]
    assert once.scores(events.without_times(np.array([True, True])), other, ends)[:, 0].tolist() == [1, 1]
    assert ranker.calls == 3


def world() -> Data:
    """Walks as what stages 1 and 2 make."""
    walks = Walks(random_lengths(40, longest=14))
    bounds = list(zip(walks.offsets[:-1], walks.offsets[1:], strict=True))
    histories = Histories.from_lists([walks.items[a:b] for a, b in bounds], [walks.times[a:b] for a, b in bounds])
    items = {
        "item_index": range(NUM_ITEMS), "item_id": [f"i{i}" for i in range(NUM_ITEMS)], "title": ["t"] * NUM_ITEMS,
        "text": [""] * NUM_ITEMS, "categories": [["c"]] * NUM_ITEMS, "active": [True] * NUM_ITEMS,
    }  # fmt: skip
    return Data(histories, leave_one_out(histories), conform(pl.DataFrame(items), ITEM_MAP), "split", "filtered", 10)


def small_settings(timed: bool = True, **changes: Any) -> dict[str, Any]:
    short = training(epochs=1)
    codebook = {"layers": 2, "codes": 4, "iterations": 3, "assignment": "cosine", "coefficients": "item"}
    llm = {"training": short, "transitions": {"decays": (0.0,), "ridge": 1.0, "kept": 8, "max_items": 100}, **changes}
    return {
        "lightweight_encoder": encoder_parameters(training=short).model_dump(mode="json"),
        "codebook": CodebookParameters(seed=0, **codebook).model_dump(mode="json"),
        "llm_recommender": recommender_parameters(**llm).model_dump(mode="json"),
        "timed": timed,
    }


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts in the order in which they are made; texts are random."""
    names: list[str] = []

    def embed(item_map: pl.DataFrame, previous: None, parameters: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"embeddings": np.random.default_rng(0).standard_normal((len(item_map), 12)).astype(np.float32)}, {}

    def noted(name: str, node: Any) -> Any:
        def work(*arguments: Any) -> Any:
            names.append(name)
            return node(*arguments)

        return work

    monkeypatch.setattr(make, "embed_texts", embed)
    for name, node in (
        ("encoder", "train_encoder"),
        ("codebook", "fit_codebook"),
        ("recommender", "train_recommender"),
    ):
        monkeypatch.setattr(make, node, noted(name, getattr(make, node)))
    return names


def test_cells_share_parts_and_compare_user_by_user(tmp_path: Path, trained: list[str]) -> None:
    data, folder, results = world(), tmp_path / "parts", tmp_path / "results" / "ablations"

    def cell(name: str, settings: dict[str, Any], code: str = "v1", seed: int = 0) -> dict[str, Any]:
        trained.clear()
        figures = make.measure_cell(Parts(folder, data, settings, code))
        found = {"cell": name, "seed": seed, "split_hash": "split", "settings": settings, "code": code, **figures}
        write_cell(results / "demo" / f"{name}-{seed}.json", found)
        return found

    reference = cell(REFERENCE, small_settings())
    assert trained == list(PARTS)
    merged = cell("no_transitions", small_settings(transitions={"decays": (), "ridge": 1.0, "kept": 8, "max_items": 9}))
    assert trained == [], "the merge alone has changed"
    assert merged["rows"]["aware"]["test"]["llm_recommender"] == reference["rows"]["aware"]["test"]["llm_recommender"]
    assert merged["seconds"]["encoder"] == reference["seconds"]["encoder"]
    cell("no_codebook", small_settings(long_from="raw"))
    assert trained == ["recommender"]
    untimed = cell("no_times", small_settings(timed=False))
    assert trained == list(PARTS)
    assert list(untimed["rows"]) == ["free"]
    cell("no_matching", small_settings(matching_weight=0.0), code="v2")
    assert trained == list(PARTS), "other code makes other parts"

    for part in ("validation", "test"):
        figures = reference["rows"]["aware"][part]["hymirec"]
        values = unpack(reference["ndcg@10_of_users"]["aware"][part]["hymirec"])
        assert len(values) == reference["users"][part]
        assert figures["ndcg@10"][0] == pytest.approx(values.mean(), abs=1e-6)
        assert all(low <= mean <= high for mean, low, high in figures.values())
    assert 1 <= reference["effective_rank"] <= 2

    table = report.write_tables(results)
    assert table == results.with_suffix(".md").read_text(encoding="utf-8")
    stored = {path.stem: read_cell(path) or {} for path in (results / "demo").glob("*.json")}
    assert stored["no_transitions-0"]["paired"]["aware"]["test"]["llm_recommender"] == [0, 0, 0]
    ours, theirs = (found["rows"]["free"]["test"]["hymirec"]["ndcg@10"][0] for found in (untimed, reference))
    assert stored["no_times-0"]["paired"]["free"]["test"]["hymirec"][0] == pytest.approx(ours - theirs, abs=1e-6)
    assert "paired" not in stored[f"{REFERENCE}-0"]
    assert "paired" not in stored["no_matching-0"], "another version of the code"
    assert "2 versions of the code" in table
    first = table.split("### Time-aware")[1]
    mean = stored[f"{REFERENCE}-0"]["rows"]["aware"]["validation"]["llm_recommender"]["ndcg@10"][0]
    assert f"| reference | 0 | LLM recommender | {mean:.4f} [" in first


def test_several_seeds_are_summed_up(tmp_path: Path) -> None:
    zeros, ones = pack(np.zeros(4)), pack(np.ones(4))
    for name, value, seeds in ((REFERENCE, zeros, (1, 2)), ("k_2", ones, (1,)), ("k_2", zeros, (2,))):
        for seed in seeds:
            users = {"aware": {part: dict.fromkeys(make.COMPARED, value) for part in report.PARTS}}
            row = {name: {metric: [0.0, 0.0, 0.0] for metric in make.METRICS} for name in report.LABELS}
            figures = {
                "rows": {"aware": {"validation": row, "test": row}},
                "ndcg@10_of_users": users,
                "users": {"validation": 4, "test": 4},
                "effective_rank": 1.0,
                "seconds_in_all": 1.0,
                "peak_mb": None,
                "machine": {"cpu": "c", "threads": "1", "torch": "2"},
            }
            identity = {"cell": name, "seed": seed, "split_hash": "s", "code": "c"}
            write_cell(tmp_path / "ablations" / "demo" / f"{name}-{seed}.json", {**identity, **figures})
    table = report.write_tables(tmp_path / "ablations")
    assert "- k_2, 2 seeds, mean Δ and range: LLM recommender validation +0.5000 (+0.0000 to +1.0000)" in table
    assert "**+1.0000 [+1.0000, +1.0000]**" in table


def identity(**changes: Any) -> dict[str, Any]:
    made_from = {"environment": "nowhere", "cell": "k_2", "seed": 1, "split_hash": "s", "settings": {}, "code": "c"}
    return {**made_from, **changes}


def test_a_cell_stands_until_what_it_was_made_from_changes(tmp_path: Path) -> None:
    path = tmp_path / "k_2-1.json"
    assert not run.stands(path, identity())
    write_cell(path, {**identity(), "failed": "why not"})
    assert run.stands(path, identity())
    for key in run.IDENTITY:
        assert not run.stands(path, identity(**{key: "other"})), key


def test_a_cell_that_fails_or_does_not_end_says_so(tmp_path: Path) -> None:
    path = tmp_path / "k_2-1.json"
    assert run.run_cell(path, tmp_path, identity(), {}, 0.01) == "did not end"
    assert (read_cell(path) or {})["failed"] == "did not end within 0.01 s"
    assert run.run_cell(path, tmp_path, identity(), {}, 600).startswith("failed")
    assert (read_cell(path) or {})["failed"] == "KeyError: 'nowhere'"


def test_the_command_runs_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def fake(path: Path, work: Path, made_from: dict[str, Any], parameters: dict[str, Any], seconds: float) -> str:
        ran.append(path.name)
        write_cell(path, {**made_from, "failed": "no disk"})
        return "failed"

    monkeypatch.setattr(run, "prepare", lambda environment, work: configured(environment))
    monkeypatch.setattr(run, "load", lambda environment, parameters: world())
    monkeypatch.setattr(run, "run_cell", fake)
    monkeypatch.setattr(run, "code_version", lambda: "v1")
    words = ["--env", "demo", "--work", str(tmp_path), "--results", str(tmp_path / "r"), "--cells", "k_2", "k_4"]
    for _ in range(2):
        run.main(words)
    assert ran == ["k_2-20260101.json"]
    told = capsys.readouterr().out
    assert "k_4 20260101: skipped: it is the reference here" in told
    assert "k_2 20260101: is there" in told
    assert "k_2, 20260101: did not run: no disk" in told
    run.main([*words, "--retry"])
    assert len(ran) == 2
