"""What a run settles, and how a final fit takes it over."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prismrec.errors import UserError
from prismrec.models.merge import Merge, MergeConfig
from prismrec.pipeline_registry import CHOOSING, DEFAULT, FINAL_FIT, register_pipelines
from prismrec.pipelines.choices import (
    PREVIOUS_CHOICES,
    best_epoch,
    check_choices,
    collect_choices,
    settled_epochs,
    settled_merge,
)
from prismrec.pipelines.inputs import training_summary
from prismrec.training.loop import EpochRecord


def curve(*figures: float, first: int = 1) -> dict[str, Any]:
    return {"epochs": [{"epoch": first + n, "validation": {"ndcg@10": figure}} for n, figure in enumerate(figures)]}


@pytest.fixture
def choices() -> dict[str, Any]:
    merge = Merge(MergeConfig(("left", "right")))
    merge.timed_M.copy_(torch.tensor([0.3, 0.7], dtype=torch.float64))
    merge.timeless_M.copy_(torch.tensor([0.0, 1 / 3], dtype=torch.float64))
    report = {
        "protocol": {"name": "leave_one_out"},
        "split_hash": "abc",
        "cases": {"validation": {"users": 5}},
        "models": {"hymirec": {"ndcg@10": 0.2, "validation_ndcg@10": 0.3, "label": "HyMiRec"}},
    }
    return collect_choices(
        report, curve(0.1, 0.3, 0.2), curve(0.4), curve(0.1, 0.1), curve(0.1, 0.2), curve(0.2), curve(0.2),
        SimpleNamespace(config=SimpleNamespace(temperature=1.25)), merge=merge,
    )  # fmt: skip


def test_choices_hold_epochs_weights_and_figures(choices: dict[str, Any]) -> None:
    assert choices["epochs"] == {
        "lightweight_encoder": 2, "llm_recommender": 1, "posterior": 1, "retrieval": 2, "sasrec": 1, "comirec": 1,
    }  # fmt: skip
    assert choices["posterior_temperature"] == 1.25
    assert choices["validation"] == {"hymirec": {"ndcg@10": 0.3}}
    assert choices["validation_cases"] == {"users": 5}


def test_weights_come_back_exactly(choices: dict[str, Any]) -> None:
    settled = settled_merge(choices, "merge", {"left": None, "right": None})
    assert settled.timed_M.tolist() == [0.3, 0.7]
    assert settled.timeless_M.tolist() == [0.0, 1 / 3]
    assert settled.config.members == ("left", "right")


def test_without_choices_nothing_is_settled() -> None:
    check_choices(None, "leave_one_out")
    assert settled_epochs(None, "sasrec") is None
    assert settled_merge(None, "merge", {}) is None


def test_choices_of_another_protocol_or_of_other_members_are_refused(choices: dict[str, Any]) -> None:
    check_choices(choices, "leave_one_out")
    with pytest.raises(UserError, match="global_time"):
        check_choices(choices, "global_time")
    with pytest.raises(UserError, match="right, left"):
        settled_merge(choices, "merge", {"right": None, "left": None})
    with pytest.raises(UserError, match="merged nothing; this one has left"):
        settled_merge(choices, "comirec_merge", {"left": None})  # a row that the run before did not have


def test_of_equal_epochs_the_earliest_is_best() -> None:
    assert best_epoch(curve(0.1, 0.3, 0.3)["epochs"]) == 2
    assert best_epoch(curve(0.3, 0.1, 0.3, first=0)["epochs"]) == 0, "the start"


def test_a_summary_counts_trained_epochs() -> None:
    def records(*figures: float | None, first: int) -> list[EpochRecord]:
        found = [{} if figure is None else {"ndcg@10": figure} for figure in figures]
        return [EpochRecord(first + n, 1.0, {}, validation, 0.0) for n, validation in enumerate(found)]

    assert training_summary("", records(0.3, 0.1, 0.2, first=0)) == {
        "best_epoch": 0, "epochs": 2, "validation_ndcg@10": 0.3,
    }  # fmt: skip
    assert training_summary("", records(0.1, 0.2, first=1))["best_epoch"] == 2
    assert training_summary("", records(None, None, first=1)) == {"best_epoch": 2, "epochs": 2}
    assert training_summary("", []) == {"best_epoch": 0, "epochs": 0}, "a final fit that keeps the start"


def test_the_final_fit_is_every_stage_again_and_gives_choices_to_whoever_would_choose() -> None:
    pipelines = register_pipelines()
    usual = {node.name: node for node in pipelines[DEFAULT].nodes}
    final = {node.name: node for node in pipelines[FINAL_FIT].nodes}
    assert usual.keys() - final.keys() == {"evaluation.collect_choices"}
    assert final.keys() <= usual.keys()
    for name, node in final.items():
        added = [PREVIOUS_CHOICES] if "choices" in node.func.__code__.co_varnames else []
        assert sorted(node.inputs) == sorted([*usual[name].inputs, *added]), name
        assert node.outputs == usual[name].outputs
    assert {node.name.split(".")[0] for node in final.values() if PREVIOUS_CHOICES in node.inputs} == set(CHOOSING)
