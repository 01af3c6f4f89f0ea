"""Wiring of `data_validation`."""

from kedro.pipeline import Node, Pipeline

from prismrec.pipelines.data_validation.nodes import build_reports, read_source, validate_tables

STAGE = "data_validation"
PARAMETERS = f"params:{STAGE}"
RAW = ["raw_interactions", "raw_items"]
VALIDATED = ["validated_interactions", "validated_items", "quarantine"]


def create_pipeline() -> Pipeline:
    """Read, validate, report."""
    return Pipeline(
        [
            Node(
                read_source,
                [PARAMETERS, "forgotten_users"],
                [*RAW, "planted_truth", "source_facts"],
                name="read_source",
            ),
            Node(validate_tables, [*RAW, PARAMETERS], VALIDATED, name="validate_tables"),
            Node(
                build_reports,
                [*RAW, *VALIDATED, "source_facts", "previous_data_profile", PARAMETERS],
                ["validation_report", "validation_page", "data_docs", "data_validation_metrics", "data_profile"],
                name="build_reports",
            ),
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
