"""Wiring of `sequence_building`."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.sequence_building.nodes import build_sequences

STAGE = "sequence_building"


def create_pipeline(choices: Sequence[str] = ()) -> Pipeline:
    """Build maps, histories and splits.

    Args:
        choices: the dataset of what an earlier run settled, for a final fit.
    """
    return Pipeline(
        [
            Node(
                build_sequences,
                [
                    "validated_interactions",
                    "validated_items",
                    "previous_item_map",
                    "previous_user_map",
                    "forgotten_users",
                    "data_validation_metrics",
                    f"params:{STAGE}",
                    *choices,
                ],
                ["item_map", "user_map", "histories", "splits", "sequence_building_metrics"],
                name="build_sequences",
            )
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
