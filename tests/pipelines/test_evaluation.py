"""The evaluation stage's own decisions: whose cases count, what is said of the others, what is dropped in between."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from prismrec.data.histories import SplitPoints
from prismrec.errors import UserError
from prismrec.evaluation.comparison import Row
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker
from prismrec.parameters.evaluation import EvaluationParameters
from prismrec.pipelines.evaluation import nodes

ITEMS = 6
REPEATS = EventTable(np.array([0, 3, 6]), np.array([0, 1, 0, 2, 3, 3]), None)  # both end with an item they had
NEW = EventTable(np.array([0, 3, 6]), np.array([0, 1, 2, 2, 3, 4]), None)
POINTS = SplitPoints(*(np.array(point) for point in ([1, 1], [1, 1], [2, 2], [2, 2], [3, 3])))
METRICS = {"protocol": {"name": "global_time"}, "cases": {"test": {"users": 2, "users_without_history": 4}}}
ALL = torch.ones(ITEMS, dtype=torch.bool)


class Flat(Ranker):
    """Every item alike."""

    name = "flat"

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(users_B), ITEMS)


class Parameters:
    """What the helpers read of the parameters."""

    history = "kept"
    recent_days = 30.0
    bootstrap_draws = 200
    seed = 1


def flat(events: EventTable) -> dict[str, Row]:
    return {"flat": Row(Flat(), events, "flat", "baseline", "free")}


def test_without_a_target_to_find_the_user_is_told_what_to_change() -> None:
    starts, ends = POINTS.test_start_U, POINTS.test_end_U
    with pytest.raises(UserError, match="Every target of 2 users") as told:
        nodes.some_cases(REPEATS, starts, ends, "filtered")
    assert "sequence_building.repeats" in str(told.value)
    assert "evaluation.history" in str(told.value)
    assert len(nodes.some_cases(REPEATS, starts, ends, "kept").users_C) == 2


def test_counts_hold_the_users_that_the_split_left_out() -> None:
    cases = nodes.some_cases(NEW, POINTS.test_start_U, POINTS.test_end_U, "filtered")
    assert nodes.case_figures(cases, "test", METRICS) == {
        "users": 2, "targets": 2, "left_out": 0, "repeated": 0, "users_left_out": 0, "users_without_history": 4,
    }  # fmt: skip


def other(events: EventTable, metrics: dict[str, Any] = METRICS) -> dict[str, Any] | None:
    return nodes.other_history(flat(events), events, POINTS, ALL, metrics, Parameters())  # type: ignore[arg-type]


def test_the_other_rule_has_accuracy_alone() -> None:
    found = other(NEW)
    assert found is not None
    assert found["rule"] == "filtered"
    assert found["models"]["flat"]["hr@10"] == 1.0
    assert found["intervals"]["flat"]["hr@10"] == [1.0, 1.0]
    assert {name.split("@")[0] for name in found["models"]["flat"]} == {"hr", "recall", "ndcg", "mrr"}
    assert other(NEW, {**METRICS, "protocol": {"name": "leave_one_out"}}) is None


def test_where_the_other_rule_leaves_no_case_the_counts_say_so() -> None:
    found = other(REPEATS)
    assert found is not None
    assert found["models"] == {}
    assert (found["cases"]["users"], found["cases"]["users_left_out"]) == (0, 2)


def test_rows_of_validation_are_gone_before_those_of_the_test_are_made() -> None:
    made: list[weakref.ref[Row]] = []

    class Tracked(Flat):
        pass

    def rows() -> dict[str, Row]:
        ranker = Tracked()
        made.append(weakref.ref(ranker))
        return {"popularity": Row(ranker, NEW, "popularity", "heuristic", "free"), **flat(NEW)}

    cases = nodes.some_cases(NEW, POINTS.validation_start_U, POINTS.validation_end_U, "filtered")
    found = nodes.validation_accuracy(rows, cases, ALL, Parameters())  # type: ignore[arg-type]
    gc.collect()
    assert set(found) == {"popularity", "flat"}
    assert made
    assert made[0]() is None


def test_categories_are_kept_sparse() -> None:
    lists = [["b", "a"], None, [], ["c", None, "a"]]
    item_map = pl.DataFrame({"categories": lists}, schema={"categories": pl.List(pl.String)})
    found = nodes.categories(item_map)
    assert found.nnz == 4
    assert found.toarray().tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 1]]
    assert nodes.categories(item_map.clear(2)).shape == (2, 1)


@pytest.mark.parametrize(("own", "expected"), [(None, 2.0), (0.0, 0.0), (0.1, 0.1)])
def test_comirec_may_have_a_weight_decay_of_its_own(
    own: float | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SASRec's stays that of training, and nothing else differs."""
    written = yaml.safe_load((Path(__file__).parents[2] / "conf/base/parameters_evaluation.yml").read_text())[
        "evaluation"
    ]
    parameters = EvaluationParameters.model_validate(
        {
            **written, "seed": 1,
            "baselines": {
                **written["baselines"], "comirec_weight_decay": own,
                "training": {**written["baselines"]["training"], "weight_decay": 2.0},
            },
        }
    )  # fmt: skip
    seen = []
    monkeypatch.setattr(nodes, "_train_baseline", lambda *arguments: seen.append(arguments[-3]))
    frame = pl.DataFrame({"item_id": ["a"]})
    nodes.train_sasrec(frame, frame, frame, parameters)
    nodes.train_comirec(frame, frame, frame, parameters)
    assert [given.baselines.training.weight_decay for given in seen] == [2.0, expected]
    for given in seen:
        assert given.baselines.training.model_copy(update={"weight_decay": 2.0}) == parameters.baselines.training


@pytest.mark.parametrize(("own", "expected"), [(None, 100), (50, 50)])
def test_comirec_may_read_another_length(own: int | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = yaml.safe_load((Path(__file__).parents[2] / "conf/base/parameters_evaluation.yml").read_text())
    baselines = {**written["evaluation"]["baselines"], "comirec_length": own}
    parameters = EvaluationParameters.model_validate({**written["evaluation"], "seed": 1, "baselines": baselines})
    seen = []
    monkeypatch.setattr(nodes, "_train_baseline", lambda *arguments: seen.append((arguments[1], arguments[-3])))
    frame = pl.DataFrame({"item_id": ["a"]})
    nodes.train_sasrec(frame, frame, frame, parameters)
    nodes.train_comirec(frame, frame, frame, parameters)
    assert [(sizes.length, given.baselines.length) for sizes, given in seen] == [(100, 100), (expected, expected)]


def test_without_times_a_model_that_reads_them_has_one_row() -> None:
    class Timely(Flat):
        name = "hymirec"
        reads_time = True

    timed = EventTable(np.array([0, 3, 6]), np.array([0, 1, 2, 2, 3, 4]), np.arange(6) * 100)
    rows = nodes.trained_rows([Timely()], [], timed)
    assert {name: row.time for name, row in rows.items()} == {"hymirec": "aware", "hymirec_time_free": "free"}
    rows = nodes.trained_rows([Timely()], [], NEW)
    assert {name: row.time for name, row in rows.items()} == {"hymirec": "free"}
