"""Nodes of `sequence_building`; `prismrec.data.sequences` does the work, imported when a node runs.

Annotations are real types, not strings under TYPE_CHECKING: Kedro reads them to build the parameters.
"""

from typing import Any

import polars as pl

from prismrec.data.histories import Histories
from prismrec.parameters.sequence_building import SequenceBuildingParameters
from prismrec.pipelines.choices import check_choices


def build_sequences(
    validated_interactions: pl.LazyFrame,
    validated_items: pl.DataFrame,
    previous_item_map: pl.DataFrame | None,
    previous_user_map: pl.DataFrame | None,
    forgotten_users: dict[str, Any] | None,
    data_validation_metrics: dict[str, Any],
    parameters: SequenceBuildingParameters,
    choices: dict[str, Any] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, Histories, pl.DataFrame, dict[str, Any]]:
    """Return item map, user map, histories, splits and metrics; maps extend those of the last run.

    Users who are to be forgotten have lost their events before, and lose their ids in the map here.

    Args:
        choices: what a run before settled on validation; then the validation events train too (a final fit).
    """
    from prismrec.data import sequences
    from prismrec.data.forget import forget_in_map, requested

    check_choices(choices, parameters.protocol)
    if previous_user_map is not None:
        previous_user_map = forget_in_map(previous_user_map, requested(forgotten_users))
    return sequences.build_sequences(
        validated_interactions, validated_items, previous_item_map, previous_user_map, parameters,
        final=choices is not None, times_known=data_validation_metrics.get("times_known", True),
    )  # fmt: skip
