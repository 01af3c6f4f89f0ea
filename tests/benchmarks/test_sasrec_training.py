"""SASRec's training with a clock: the curve is the training's own, and the test figures are those of its weights."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks import sasrec_training, steps
from prismrec.data.histories import Histories
from prismrec.data.schema import ACTIVE
from prismrec.data.splits import CUT_POINTS
from prismrec.parameters.evaluation import EvaluationParameters

ITEMS, USERS, LENGTH = 30, 40, 8


class Catalog:
    """Cyclic walks: each user's next item is the one after the last."""

    def __init__(self) -> None:
        walks = [[(user + step) % ITEMS for step in range(LENGTH)] for user in range(USERS)]
        cuts = (LENGTH - 2, LENGTH - 2, LENGTH - 1, LENGTH - 1, LENGTH)
        self.tables: dict[str, Any] = {
            "histories": Histories.from_lists(walks),
            "item_map": pl.DataFrame({"item_id": [str(item) for item in range(ITEMS)], ACTIVE: [True] * ITEMS}),
            "splits": pl.DataFrame({name: np.full(USERS, cut) for name, cut in zip(CUT_POINTS, cuts, strict=True)}),
            "sequence_building_metrics": {"split_hash": "abc"},
        }

    def load(self, name: str) -> Any:
        return self.tables[name]


@pytest.fixture
def parameters() -> EvaluationParameters:
    settings = steps.load_parameters("base")["evaluation"]
    small = {"dim": 8, "layers": 1, "heads": 1, "length": 6, "dropout": 0.0}
    training = {"epochs": 3, "batch_size": 8, "validation_users": USERS, "device": "cpu", "bf16": False}
    settings["baselines"] |= {**small, "training": settings["baselines"]["training"] | training}
    return EvaluationParameters.model_validate(settings)


def test_the_curve_and_the_test_are_of_one_training(parameters: EvaluationParameters) -> None:
    found = sasrec_training.run(Catalog(), parameters)
    assert 1 <= len(found["curve"]) <= 3
    seconds = [point["seconds"] for point in found["curve"]]
    assert seconds == sorted(seconds)
    assert found["seconds_to_best_epoch"] in seconds
    assert max(seconds) <= found["training"]["seconds"] + 0.1
    test = found["test"]["hr@10"]
    assert test["mean"] > 0.9, "a walk is easily learnt; chance is a third"
    assert test["interval"][0] <= test["mean"] <= test["interval"][1]
    assert found["settings"]["dim"] == 8


def test_what_is_printed_and_written(
    parameters: EvaluationParameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = Catalog(), {}, {"evaluation": parameters.model_dump(mode="json")}
    monkeypatch.setattr(sasrec_training, "open_environment", lambda environment: opened)
    output = tmp_path / "new" / "walks.json"
    monkeypatch.setattr("sys.argv", ["sasrec_training", "--env", "walks", "--output", str(output)])
    sasrec_training.main()
    printed = capsys.readouterr().out
    assert "epoch 1: " in printed
    assert "test hr@10 " in printed
    assert '"environment": "walks"' in output.read_text()
