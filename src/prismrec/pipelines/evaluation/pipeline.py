"""Wiring of `evaluation`."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.choices import collect_choices
from prismrec.pipelines.evaluation import nodes

STAGE = "evaluation"
PARAMETERS = f"params:{STAGE}"
# What the figures are made of; the node's arguments are called the same.
MEASURED = (
    "item_vectors",
    "lightweight_encoder",
    "codebook",
    "item_codes",
    "recommender",
    "training_counted",
    "counted",
    "merge",
    "dictionary",
    "item_cells",
    "posterior",
    "posterior_curve",
    "retrieval",
    "unified_merge",
    "sasrec",
    "sasrec_merge",
    "comirec",
    "comirec_merge",
    "interests_merge",
    "text_embeddings",
    "item_map",
    "user_map",
    "planted_truth",
    "histories",
    "splits",
    "sequence_building_metrics",
    "previous_bundle",
)
# What the model card describes; the node's arguments are called the same.
DESCRIBED = (
    "evaluation_metrics",
    "data_validation_metrics",
    "sequence_building_metrics",
    "text_encoding",
    "lightweight_encoder",
    "codebook",
    "recommender",
    "counted",
    "merge",
    "dictionary",
    "posterior",
    "retrieval",
    "unified_merge",
    "sasrec",
    "comirec",
)
CURVES = (
    "lightweight_encoder_curve",
    "llm_recommender_curve",
    "posterior_curve",
    "retrieval_curve",
    "sasrec_curve",
    "comirec_curve",
)
# What a run settles on its validation events.
MERGES = ("merge", "sasrec_merge", "comirec_merge", "interests_merge", "unified_merge")
SETTLED = ("evaluation_metrics", *CURVES, "posterior", *MERGES)
SPLIT = ["item_map", "histories", "splits"]
# What a row's merge is fitted on, beside its own members.
FITTED = ["training_counted", "item_vectors", "histories", "splits", PARAMETERS]


def create_pipeline(choices: Sequence[str] = ()) -> Pipeline:
    """Train the baselines, measure every model, then draw the report and write the model card.

    Args:
        choices: the dataset of what an earlier run settled, for a final fit; without it this run's choices are kept.
    """
    training = [*SPLIT, PARAMETERS, f"{STAGE}_checkpoints", *choices]
    collect = Node(collect_choices, {name: name for name in SETTLED}, "choices", name="collect_choices")
    return Pipeline(
        [
            *(() if choices else (collect,)),
            Node(nodes.train_sasrec, training, ["sasrec", "sasrec_curve"], name="train_sasrec"),
            Node(
                nodes.merge_sasrec,
                ["sasrec", *FITTED, *choices],
                ["sasrec_merge", "sasrec_merge_metrics"],
                name="merge_sasrec",
            ),
            Node(nodes.train_comirec, training, ["comirec", "comirec_curve"], name="train_comirec"),
            Node(
                nodes.merge_comirec,
                ["comirec", *FITTED, *choices],
                ["comirec_merge", "comirec_merge_metrics"],
                name="merge_comirec",
            ),
            Node(
                nodes.merge_interests,
                ["codebook", "item_codes", "lightweight_encoder", "recommender", *FITTED, *choices],
                ["interests_merge", "interests_merge_metrics"],
                name="merge_interests",
            ),
            Node(
                nodes.evaluate_models,
                {
                    **{name: name for name in MEASURED},
                    "parameters": PARAMETERS,
                    **({"choices": choices[0]} if choices else {}),
                },
                "evaluation_metrics",
                name="evaluate_models",
            ),
            Node(
                nodes.render_report,
                {"evaluation_metrics": "evaluation_metrics", **{name: name for name in CURVES}},
                [
                    "evaluation_table",
                    "evaluation_page",
                    "evaluation_plot",
                    "evaluation_slices_plot",
                    "interest_curve_plot",
                    "training_curves_plot",
                ],
                name="render_report",
            ),
            Node(
                nodes.write_model_card,
                {name: name for name in DESCRIBED},
                "model_card",
                name="write_model_card",
            ),
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
