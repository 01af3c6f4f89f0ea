"""Wiring of `evaluation`."""

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.evaluation.nodes import evaluate_models, render_report

STAGE = "evaluation"


def create_pipeline() -> Pipeline:
    """Rank with every model, then draw table and plot."""
    return Pipeline(
        [
            Node(
                evaluate_models,
                [
                    "item_vectors",
                    "lightweight_encoder",
                    "codebook",
                    "item_codes",
                    "recommender",
                    "dictionary",
                    "item_cells",
                    "posterior",
                    "retrieval",
                    "histories",
                    "splits",
                    "sequence_building_metrics",
                    f"params:{STAGE}",
                ],
                "evaluation_metrics",
                name="evaluate_models",
            ),
            Node(
                render_report,
                ["evaluation_metrics", f"params:{STAGE}"],
                ["evaluation_table", "evaluation_plot"],
                name="render_report",
            ),
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
