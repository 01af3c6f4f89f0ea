"""Wiring of stage 8."""

from kedro.pipeline import Pipeline, node

from prismrec.pipelines.packaging import nodes


def create_pipeline() -> Pipeline:
    """Return the stage: assemble the bundle, try it out, store it and build the Bento."""
    parts = {name: name for name in (*nodes.MODEL_PARTS, *nodes.LABELS)}
    return Pipeline(
        [
            node(
                nodes.assemble_bundle,
                inputs={
                    "item_map": "item_map",
                    "histories": "histories",
                    "evaluation_metrics": "evaluation_metrics",
                    "parameters": "params:packaging",
                    **parts,
                },
                outputs="bundle",
                name="assemble_bundle",
            ),
            node(nodes.measure_bundle, inputs="bundle", outputs="packaging_metrics", name="measure_bundle"),
            node(nodes.store_model_and_build_bento, inputs="bundle", outputs="bento_tag", name="build_bento"),
        ],
        namespace="packaging",
        prefix_datasets_with_namespace=False,
    )
