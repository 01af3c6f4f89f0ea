"""Wiring of `codebook`."""

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.codebook.nodes import encode_items, fit_codebook, measure_fidelity

STAGE = "codebook"


def create_pipeline() -> Pipeline:
    """Fit the codebook, encode the items, measure what is lost."""
    return Pipeline(
        [
            Node(fit_codebook, ["item_vectors", f"params:{STAGE}"], "codebook", name="fit_codebook"),
            Node(encode_items, ["codebook", "item_vectors"], "item_codes", name="encode_items"),
            Node(
                measure_fidelity,
                ["codebook", "item_codes", "item_vectors"],
                ["codebook_metrics", "codebook_page"],
                name="measure_fidelity",
            ),
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
