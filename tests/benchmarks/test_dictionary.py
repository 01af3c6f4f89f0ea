"""The dictionary's benchmarks: their own arithmetic, and that they go on where they stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.dictionary_refresh import World, markov_recall, run_seed, summary, vectors_of
from safetensors.numpy import save_file
from torch.nn import functional as F

from benchmarks import dictionary_health, dictionary_refresh
from prismrec.data.histories import Histories
from prismrec.parameters.interest_dictionary import DictionaryParameters

ITEMS = 60


@pytest.fixture
def parameters(monkeypatch: pytest.MonkeyPatch) -> DictionaryParameters:
    made = dictionary_health.dictionary_parameters("base").model_copy(
        update={"steps": 20, "warm_up_steps": 10, "code_dim": 4, "hidden": 8, "batch_size": 32, "items_per_cell": 10}
    )
    monkeypatch.setattr(dictionary_health, "dictionary_parameters", lambda environment: made)
    return made


def workspace(folder: Path) -> Path:
    vectors = F.normalize(torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(0)), dim=-1).numpy()
    version = folder / "05_model_input" / "item_vectors.safetensors" / "2026"
    version.mkdir(parents=True)
    arrays = {"vectors": vectors, "text_only": vectors, "recommendable": np.ones(ITEMS, dtype=bool)}
    save_file(arrays, version / "item_vectors.safetensors")
    return folder


def test_health_measures_every_seed_once(tmp_path: Path, parameters: DictionaryParameters) -> None:
    folder = workspace(tmp_path / "demo")
    first = dictionary_health.run(folder, "demo", [0], tmp_path)
    again = dictionary_health.run(folder, "demo", [0, 1], tmp_path)
    assert again["seeds"]["0"] == first["seeds"]["0"], "its seconds too: it was not run again"
    assert set(again["seeds"]) == {"0", "1"}
    assert "60 items" in dictionary_health.as_table("demo", again)


def test_parameters_are_the_environments() -> None:
    base, ml1m = map(dictionary_health.dictionary_parameters, ("demo", "ml1m"))
    assert (base.commitment, ml1m.commitment) == (0.05, 0.25)
    assert base.model_copy(update={"commitment": 0.25}) == ml1m


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, True), ({"utilisation": [1.0, 0.9]}, False), ({"occupancy": 0.5}, False), ({"items_per_cell": 19.0}, False)],
)
def test_all_three_bars_have_to_hold(change: dict, expected: bool) -> None:
    found = {"utilisation": [1.0, 0.96], "occupancy": 0.61, "items_per_cell": 20.5}
    assert dictionary_health.passes({**found, **change}) is expected


def world() -> World:
    """Users who walk from item to item, over twelve days."""
    histories = Histories.from_lists([[(5 * user + step) % ITEMS for step in range(24)] for user in range(40)])
    text = torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(0))
    return World(histories, np.tile(np.arange(24) // 2, 40), text, 8)


def test_ten_days_become_rows_and_a_summary(parameters: DictionaryParameters) -> None:
    days = range(8, 11)
    daily = [vectors_of(world(), day) for day in days]
    rows = run_seed(world(), days, daily, parameters, seed=0)
    assert [row["day"] for row in rows] == [9, 10]
    assert all(0 <= row["recall"] <= 1 for row in rows)
    assert all(row["kind"] == "refreshed" for row in rows)
    assert set(summary({"0": rows})) >= {"passes", "recall_to_full", "cost_to_full"}


def test_the_vectors_of_a_day_know_no_later_event() -> None:
    now = vectors_of(world(), 5)
    later = world()
    later.histories.items[later.day_E >= 5] = 0
    np.testing.assert_array_equal(vectors_of(later, 5)["vectors"], now["vectors"])


def test_a_chain_that_knows_the_way_recalls_everything() -> None:
    """One cell an item and fifty places: each item's follower is among them."""

    class OneEach:
        num_cells = ITEMS

        def codes_of(self, vectors: torch.Tensor) -> torch.Tensor:
            return torch.arange(ITEMS)[:, None]

        def cell_index(self, codes: torch.Tensor) -> torch.Tensor:
            return codes[:, 0]

    vectors = {"vectors": np.zeros((ITEMS, 2), np.float32), "recommendable": np.ones(ITEMS, dtype=bool)}
    assert markov_recall(OneEach(), vectors, world(), 8) == 1.0


def test_the_summary_takes_the_worst_share_and_mean_ratios() -> None:
    row = {
        "barely_moved_changed": 0.01, "error": 1.0, "error_full": 1.0, "recall": 0.2, "recall_full": 0.2,
        "seconds": 0.1, "seconds_full": 5.0,
    }  # fmt: skip
    assert summary({"0": [row, row]})["passes"]
    for change in ({"barely_moved_changed": 0.06}, {"recall": 0.19}, {"error": 1.03}, {"seconds": 1.1}):
        assert not summary({"0": [row, {**row, **change}, {**row, **change}]})["passes"], change
    mixed = summary({"0": [row, {**row, "barely_moved_changed": 0.04}], "1": [{**row, "error": 1.2, "recall": 0.15}]})
    assert mixed["barely_moved_changed_worst"] == 0.04
    assert mixed["error_to_full_worst_day"] == pytest.approx(1.2)
    assert mixed["recall_to_full_worst_day"] == pytest.approx(0.75)


def test_command_lines_say_what_they_need() -> None:
    with pytest.raises(SystemExit):
        dictionary_refresh.main(["--workspace", "nowhere"])
