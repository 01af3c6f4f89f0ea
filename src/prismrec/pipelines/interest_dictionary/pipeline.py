"""Wiring of `interest_dictionary`: dictionary (IDMM), posterior (MIPDM), retrieval (MIRM)."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.interest_dictionary import nodes

STAGE = "interest_dictionary"
PARAMETERS = f"params:{STAGE}"
RECOMMENDER = ["recommender", "codebook", "item_codes", "item_vectors"]
HYMIREC = [
    "item_vectors", "codebook", "item_codes", "lightweight_encoder", "recommender", "training_transitions", "merge"
]  # fmt: skip


def _group(name: str, members: list[Node]) -> Pipeline:
    return Pipeline(members, namespace=f"{STAGE}.{name}", prefix_datasets_with_namespace=False)


def create_pipeline(choices: Sequence[str] = ()) -> Pipeline:
    """Fit, label and report the dictionary, then train posterior and retrieval on it.

    Args:
        choices: the dataset of what an earlier run settled, for a final fit.
    """
    dictionary = [
        Node(
            nodes.fit_dictionary,
            ["item_vectors", "previous_dictionary", PARAMETERS],
            ["dictionary", "dictionary_losses"],
            name="fit_dictionary",
        ),
        Node(
            nodes.assign_cells,
            ["dictionary", "item_vectors"],
            "item_cells",
            name="assign_cells",
        ),
        Node(
            nodes.label_interests,
            ["dictionary", "item_cells", "item_vectors", "item_map", "histories"],
            ["interest_labels", "interest_table", "interest_map"],
            name="label_interests",
        ),
        Node(
            nodes.report_dictionary,
            ["dictionary", "dictionary_losses", "item_cells", "item_vectors", "previous_dictionary"],
            ["dictionary_drift", "dictionary_drift_plot", "dictionary_health"],
            name="report_dictionary",
        ),
    ]
    # The training nodes, and where a killed one goes on.
    training = ["histories", "splits", PARAMETERS, f"{STAGE}_checkpoints", *choices]
    posterior = [
        Node(
            nodes.train_posterior,
            ["dictionary", "item_cells", *RECOMMENDER, *training],
            ["posterior", "posterior_curve"],
            name="train_posterior",
        )
    ]
    retrieval = [
        Node(
            nodes.train_retrieval,
            ["dictionary", "item_cells", "posterior", *RECOMMENDER, *training],
            ["retrieval", "retrieval_curve"],
            name="train_retrieval",
        )
    ]
    gemirec = ["dictionary", "item_cells", "posterior", "retrieval"]
    unified = [
        Node(
            nodes.fit_unified_merge,
            [
                *HYMIREC,
                *gemirec,
                "histories",
                "splits",
                PARAMETERS,
                *choices,
            ],
            ["unified_merge", "unified_merge_metrics"],
            name="fit_unified_merge",
        )
    ]
    # In no group: a group that reads reports and writes models would put kedro-viz's layers into a cycle.
    metrics = Node(
        nodes.collect_metrics,
        ["dictionary", "dictionary_health", "posterior_curve", "retrieval_curve"],
        "interest_dictionary_metrics",
        name="collect_metrics",
    )
    groups = _group("dictionary", dictionary) + _group("posterior", posterior) + _group("retrieval", retrieval)
    groups += _group("unified", unified)
    return groups + Pipeline([metrics], namespace=STAGE, prefix_datasets_with_namespace=False)
