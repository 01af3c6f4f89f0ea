"""Wiring of `packaging`."""

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.packaging import nodes

STAGE = "packaging"


def create_pipeline() -> Pipeline:
    """Assemble the bundle or keep the incumbent, try it out, store it and build the Bento."""
    return Pipeline(
        [
            Node(
                nodes.assemble_bundle,
                {
                    "item_map": "item_map",
                    "histories": "histories",
                    "evaluation_metrics": "evaluation_metrics",
                    "model_card": "model_card",
                    "previous_bundle": "previous_bundle",
                    "parameters": f"params:{STAGE}",
                    "text_model": "text_model",
                    "text_encoding": "text_encoding",
                    "sequence_building_metrics": "sequence_building_metrics",
                    **{name: name for name in (*nodes.MODEL_PARTS, *nodes.LABELS)},
                },
                "bundle",
                name="assemble_bundle",
            ),
            Node(
                nodes.measure_bundle,
                ["bundle", "evaluation_metrics", f"params:{STAGE}"],
                "packaging_metrics",
                name="measure_bundle",
            ),
            Node(nodes.store_model_and_build_bento, "bundle", "bento_tag", name="store_model_and_build_bento"),
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
