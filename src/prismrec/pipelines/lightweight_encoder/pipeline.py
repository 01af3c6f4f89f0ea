"""Wiring of `lightweight_encoder`."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.lightweight_encoder.nodes import embed_texts, train_encoder

STAGE = "lightweight_encoder"


def create_pipeline(choices: Sequence[str] = ()) -> Pipeline:
    """Embed item texts, then train item tower and lightweight encoder.

    Args:
        choices: the dataset of what an earlier run settled, for a final fit.
    """
    return Pipeline(
        [
            Node(
                embed_texts,
                ["item_map", "previous_pretrained_text_embeddings", f"params:{STAGE}"],
                ["pretrained_text_embeddings", "text_encoding"],
                name="embed_texts",
            ),
            Node(
                train_encoder,
                [
                    "pretrained_text_embeddings",
                    "text_encoding",
                    "item_map",
                    "histories",
                    "splits",
                    f"params:{STAGE}",
                    f"{STAGE}_checkpoints",
                    *choices,
                ],
                [
                    "item_tower",
                    "item_vectors",
                    "lightweight_encoder",
                    "text_embeddings",
                    "text_model",
                    "lightweight_encoder_curve",
                    "lightweight_encoder_metrics",
                ],
                name="train_encoder",
            ),
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
