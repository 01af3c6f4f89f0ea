"""The cells: what each changes in the parameters of stages 3 to 5, and how long its trainings are.

A cell is named changes to an environment's configuration. Training has no limit in seconds, so its length is stated
in epochs: `EPOCHS` lowers them where a whole cell would not end within ten minutes on one core. All cells of an
environment share them, the reference too, so that differences are between equals; absolute figures are therefore
below those of a full run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from prismrec.parameters import stage_model

STAGES = ("lightweight_encoder", "codebook", "llm_recommender")
REFERENCE = "reference"
ENVIRONMENTS = {"demo": "base", "ml1m": "ml1m", "beauty": "beauty"}  # our name: Kedro's
# Epochs of stages 3 and 5 that leave a cell about ten minutes on one core; None: as configured.
EPOCHS: dict[str, tuple[int, int] | None] = {"demo": None, "ml1m": (1, 3), "beauty": (2, 2)}
TOO_BIG = "one epoch of the packaged backbone takes longer than a cell may, on one core"


class Times(NamedTuple):
    """So many times the environment's value."""

    factor: float


class Cell(NamedTuple):
    """One variant.

    Attributes:
        name: of its JSON.
        says: what changes, for the table.
        changes: new values by dotted parameter.
        timed: False withholds the times of all events, in training and in use.
        not_in: environments that it is not run in, and why.
    """

    name: str
    says: str
    changes: Mapping[str, Any] = {}
    timed: bool = True
    not_in: Mapping[str, str] = {}


def _llm(name: str, says: str, **changes: Any) -> Cell:
    return Cell(name, says, {f"llm_recommender.{key}": value for key, value in changes.items()})


def _encoder(name: str, says: str, **changes: Any) -> Cell:
    return Cell(name, says, {f"lightweight_encoder.{key}": value for key, value in changes.items()})


def _codebook(name: str, says: str, **changes: Any) -> Cell:
    return Cell(name, says, {f"codebook.{key}": value for key, value in changes.items()})


def _packaged(tuning: str, learning_rate: float) -> Cell:
    return Cell(
        f"packaged_{tuning}",
        f"pretrained MiniLM as backbone, {tuning}; 2 epochs, 8 users a step, rate {learning_rate:g}",
        {
            "llm_recommender.backbone": "packaged",
            "llm_recommender.tuning": tuning,
            "llm_recommender.training.epochs": 2,
            "llm_recommender.training.batch_size": 8,
            "llm_recommender.training.learning_rate": learning_rate,
        },
        not_in={"ml1m": TOO_BIG, "beauty": TOO_BIG},
    )


CELLS = {
    cell.name: cell
    for cell in (
        Cell(REFERENCE, "as configured"),
        _llm("no_long_branch", "no long branch", long_length=0),
        _llm("single_query", "K = 1: a single query, no groups of DMIL", num_interests=1),
        _llm("k_2", "K = 2", num_interests=2),
        _llm("k_4", "K = 4", num_interests=4),
        _llm("k_8", "K = 8", num_interests=8),
        _encoder("kc_1", "K_c = 1", num_interests=1),
        _encoder("kc_2", "K_c = 2", num_interests=2),
        _encoder("kc_4", "K_c = 4", num_interests=4),
        _encoder("kc_8", "K_c = 8", num_interests=8),
        _llm("no_matching", "no matching loss (DMIL) in stage 5", matching_weight=0.0),
        _llm("no_next_item", "no next-item loss in stage 5 (the paper)", next_item_weight=0.0),
        _llm("no_merge_loss", "no loss on the gate in stage 5", merge_weight=0.0),
        _llm("w_3", "W = 3 in stage 5", target_window=3),
        _llm("w_10", "W = 10 in stage 5", target_window=10),
        _llm("w_20", "W = 20 in stage 5", target_window=20),
        _llm("no_codebook", "long history from raw item vectors", long_from="raw"),
        _llm("recent_from_codebook", "recent items decoded too", recent_from_codebook=True),
        _codebook("euclidean", "Euclidean residual quantisation", assignment="euclidean"),
        _codebook("codes_only", "codes only, no coefficients of the item", coefficients="centroid"),
        _codebook("codes_only_9", "9 layers, codes only: the reference's bytes", layers=9, coefficients="centroid"),
        _llm("recent_half", "recent window halved", recent_length=Times(0.5)),
        _llm("recent_double", "recent window doubled", recent_length=Times(2)),
        _llm("long_half", "long history halved", long_length=Times(0.5)),
        _llm("long_double", "long history doubled", long_length=Times(2)),
        _packaged("full", 0.0003),
        _packaged("lora", 0.001),
        Cell("no_transitions", "merge without linear transitions", {"llm_recommender.transitions.decays": []}),
        Cell("no_times", "times withheld, in training and in use", timed=False),
        _encoder("normal_start", "item vectors start from noise, not from transitions", spectral_start=False),
        _encoder("comirec_pooling", "ComiRec-SA's pooling in the lightweight encoder", pooling="comirec"),
    )
}


def settings_of(cell: Cell, environment: str, parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The cell's parameters of stages 3 to 5, checked; whether it has times; the rule on histories.

    Args:
        parameters: of the environment, by stage.
    """
    stages = {stage: copy.deepcopy(parameters[stage]) | {"seed": seed} for stage in STAGES}
    if epochs := EPOCHS[environment]:
        stages["lightweight_encoder"]["training"]["epochs"], stages["llm_recommender"]["training"]["epochs"] = epochs
    for key, value in cell.changes.items():
        *path, last = key.split(".")
        block: Any = stages
        for name in path:
            block = block[name]
        block[last] = round(block[last] * value.factor) if isinstance(value, Times) else value
    checked = {
        stage: stage_model(stage).model_validate(found).model_dump(mode="json") for stage, found in stages.items()
    }
    return {**checked, "timed": cell.timed, "history": parameters["evaluation"]["history"]}


def why_not(cell: Cell, environment: str, parameters: Mapping[str, Any], seed: int) -> str | None:
    """Why a cell is not run in an environment; None where it is."""
    if environment in cell.not_in:
        return cell.not_in[environment]
    same = settings_of(cell, environment, parameters, seed) == settings_of(
        CELLS[REFERENCE], environment, parameters, seed
    )
    return "it is the reference here" if same and cell.name != REFERENCE else None
