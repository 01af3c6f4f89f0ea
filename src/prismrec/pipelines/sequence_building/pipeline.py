"""Wiring of `sequence_building`."""

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.sequence_building.nodes import build_sequences

STAGE = "sequence_building"


def create_pipeline() -> Pipeline:
    """Build maps, histories and splits."""
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
                    f"params:{STAGE}",
                ],
                ["item_map", "user_map", "histories", "splits", "sequence_building_metrics"],
                name="build_sequences",
            )
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
