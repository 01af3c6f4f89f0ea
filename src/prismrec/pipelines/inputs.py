"""Catalog tables as the models' inputs; what several stages' nodes share."""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from prismrec.data.histories import Histories, SplitPoints
from prismrec.data.schema import ACTIVE
from prismrec.errors import UserError

if TYPE_CHECKING:
    import torch

    from prismrec.models.events import EventTable
    from prismrec.parameters.training import TrainingParameters
    from prismrec.training.sequences import TrainingData


def event_table(histories: Histories) -> "EventTable":
    """All users' events."""
    from prismrec.models.events import EventTable

    return EventTable(histories.offsets, histories.items, histories.timestamps if histories.timed else None)


def active_items(item_map: pl.DataFrame) -> np.ndarray:
    """[N] which items may be recommended."""
    return item_map.get_column(ACTIVE).to_numpy()


def training_data(
    histories: Histories,
    splits: pl.DataFrame,
    recommendable_N: np.ndarray,
    training: "TrainingParameters",
    seed: int,
    choices: Mapping[str, Any] | None = None,
) -> "TrainingData":
    """Events and cut points, for the training tasks.

    Raises:
        UserError: nobody has two training events; or there are no validation targets, and no choices that do without.
    """
    from prismrec.training.sequences import TrainingData

    points = SplitPoints.from_frame(splits)
    if not (points.train_end_U >= 2).any():
        raise UserError(
            f"None of the {len(points.train_end_U):,} users has two training events, so nothing follows anything.",
            "sequence_building.min_user_events, sequence_building.max_user_events",
            "Raise max_user_events, lower min_item_events, or give more events: leave_one_out takes each user's last "
            "two for validation and test.",
        )
    if choices is None and not (points.validation_end_U > points.validation_start_U).any():
        raise UserError(
            "The split is a final fit's: its validation events train, so there is nothing to validate on.",
            "splits",
            "Go on with the final fit (kedro run --pipelines final_fit), or begin anew (kedro run).",
        )
    return TrainingData(
        event_table(histories),
        points.train_end_U,
        points.validation_start_U,
        points.validation_end_U,
        recommendable_N,
        training.validation_users,
        seed,
    )


def device_for(asked: str) -> "torch.device":
    """The device of a `training.device`: the CPU, or with `auto` a GPU where there is one."""
    import torch

    gpu = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return gpu if asked == "auto" and gpu is not None else torch.device("cpu")


def bar(description: str) -> Any:
    """A wrapper that shows a progress bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    def wrap(steps: Iterable[int]) -> Iterable[int]:
        shown: Iterable[int] = tqdm(steps, desc=description, disable=not sys.stderr.isatty(), leave=False)
        return shown

    return wrap


def training_summary(prefix: str, curve: list[Any]) -> dict[str, Any]:
    """The best epoch of a training curve as metrics; no wall time, which would differ from run to run.

    Of equals the earliest, and epoch 0 is the start, as the loop has it. Where nothing was validated (a final fit) the
    best is the last, and a final fit that keeps the start has no epoch.
    """
    if not curve or not curve[-1].validation:
        return {f"{prefix}best_epoch": len(curve), f"{prefix}epochs": len(curve)}
    best = max(curve, key=lambda record: record.validation["ndcg@10"])
    summary = {f"{prefix}validation_{name}": value for name, value in best.validation.items()}
    return {**summary, f"{prefix}best_epoch": best.epoch, f"{prefix}epochs": curve[-1].epoch}
