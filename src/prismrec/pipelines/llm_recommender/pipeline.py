"""Wiring of `llm_recommender`."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.llm_recommender.nodes import fit_merge, train_recommender

STAGE = "llm_recommender"
PARAMETERS = f"params:{STAGE}"
ITEMS = ["item_vectors", "codebook", "item_codes", "lightweight_encoder"]
SPLIT = ["histories", "splits"]


def create_pipeline(choices: Sequence[str] = ()) -> Pipeline:
    """Fine-tune the LLM recommender, then merge its interests with the coarse ones and with what is counted.

    Args:
        choices: the dataset of what an earlier run settled, for a final fit.
    """
    return Pipeline(
        [
            Node(
                train_recommender,
                [*ITEMS, *SPLIT, PARAMETERS, f"{STAGE}_checkpoints", *choices],
                ["recommender", "llm_recommender_curve", "llm_recommender_metrics"],
                name="train_recommender",
            ),
            Node(
                fit_merge,
                [*ITEMS, "recommender", *SPLIT, PARAMETERS, *choices],
                ["training_counted", "counted", "merge", "merge_metrics"],
                name="fit_merge",
            ),
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
