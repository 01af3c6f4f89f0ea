"""Nodes of `sequence_building`; `prismrec.data.sequences` does the work, imported when a node runs.

Annotations are real types, not strings under TYPE_CHECKING: Kedro reads them to build the parameters.
"""

from typing import Any

import polars as pl

from prismrec.parameters.sequence_building import SequenceBuildingParameters


def build_sequences(
    validated_interactions: pl.DataFrame,
    validated_items: pl.DataFrame,
    previous_item_map: pl.DataFrame | None,
    previous_user_map: pl.DataFrame | None,
    parameters: SequenceBuildingParameters,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Return item map, user map, histories, splits and metrics; maps extend those of the last run."""
    from prismrec.data import sequences

    return sequences.build_sequences(
        validated_interactions, validated_items, previous_item_map, previous_user_map, parameters
    )
