"""Wiring of `interest_dictionary`: dictionary (IDMM), posterior (MIPDM), retrieval (MIRM)."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.interest_dictionary import nodes

STAGE = "interest_dictionary"
PARAMETERS = f"params:{STAGE}"
RECOMMENDER = ["recommender", "codebook", "item_codes", "item_vectors"]
HYMIREC = [
    "item_vectors", "codebook", "item_codes", "lightweight_encoder", "recommender", "training_counted", "merge"
]  # fmt: skip


def _group(name: str, members: list[Node]) -> Pipeline:
    return Pipeline(members, namespace=f"{STAGE}.{name}", prefix_datasets_with_namespace=False)


def _same(*names: str) -> dict[str, str]:
    """Datasets that a node's arguments are named after."""
    return {name: name for name in names}


def create_pipeline(choices: Sequence[str] = ()) -> Pipeline:
    """Fit, label and report the dictionary, then train posterior and retrieval on it.

    Args:
        choices: the dataset of what an earlier run settled, for a final fit.
    """
    dictionary = [
        Node(
            nodes.fit_dictionary,
            ["item_vectors", "previous_dictionary", PARAMETERS],
            ["dictionary", "dictionary_losses", "dictionary_origins"],
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
    settled = {"choices": choices[0]} if choices else {}
    common = {**_same("histories", "splits"), "parameters": PARAMETERS, **settled}
    # The training nodes: where a killed one goes on, and what a refresh goes on with beside the previous model.
    training = {**common, "checkpoints": f"{STAGE}_checkpoints", **_same("dictionary_origins")}
    posterior = [
        Node(
            nodes.train_posterior,
            {**_same("dictionary", "item_cells", *RECOMMENDER, "previous_posterior"), **training},
            ["posterior", "posterior_curve"],
            name="train_posterior",
        )
    ]
    retrieval = [
        Node(
            nodes.train_retrieval,
            {**_same("dictionary", "item_cells", "posterior", *RECOMMENDER, "previous_retrieval"), **training},
            ["retrieval", "retrieval_curve"],
            name="train_retrieval",
        )
    ]
    gemirec = ["dictionary", "item_cells", "posterior", "retrieval"]
    unified = [
        Node(
            nodes.fit_unified_merge,
            {**_same(*HYMIREC, *gemirec, "posterior_curve", "previous_unified_merge"), **common},
            ["unified_merge", "unified_merge_metrics"],
            name="fit_unified_merge",
        )
    ]
    # In no group: a group that reads reports and writes models would put kedro-viz's layers into a cycle.
    metrics = Node(
        nodes.collect_metrics,
        ["dictionary", "dictionary_health", "posterior_curve", "retrieval_curve", "unified_merge_metrics"],
        "interest_dictionary_metrics",
        name="collect_metrics",
    )
    groups = _group("dictionary", dictionary) + _group("posterior", posterior) + _group("retrieval", retrieval)
    groups += _group("unified", unified)
    return groups + Pipeline([metrics], namespace=STAGE, prefix_datasets_with_namespace=False)
