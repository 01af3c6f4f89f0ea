"""Wiring of `llm_recommender`."""

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.llm_recommender.nodes import train_recommender

STAGE = "llm_recommender"


def create_pipeline() -> Pipeline:
    """Fine-tune the LLM recommender."""
    return Pipeline(
        [
            Node(
                train_recommender,
                [
                    "item_vectors",
                    "codebook",
                    "item_codes",
                    "lightweight_encoder",
                    "histories",
                    "splits",
                    f"params:{STAGE}",
                ],
                ["recommender", "llm_recommender_curve", "llm_recommender_metrics"],
                name="train_recommender",
            )
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
