"""The stage `data_validation`, run by Kedro's runner over plain memory."""

from typing import Any

import polars as pl
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from prismrec.data import schema
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sources import SyntheticWorld
from prismrec.pipelines.data_validation.nodes import read_source
from prismrec.pipelines.data_validation.pipeline import create_pipeline

PARAMETERS = DataValidationParameters(
    seed=5,
    source="synthetic",
    data_root="unused",
    synthetic=SyntheticWorld(users=480, items=300, cold_items=8, longest_history=60),
)


class Kept(MemoryDataset):
    """Keeps its data when the runner has no more use for it."""

    def _release(self) -> None:
        pass


def run(**changes: Any) -> dict[str, Any]:
    pipeline = create_pipeline()
    outputs = pipeline.all_outputs()
    given = {"params:data_validation": PARAMETERS, "forgotten_users": None, "previous_data_profile": None, **changes}
    catalog = DataCatalog(
        {**{name: MemoryDataset(data) for name, data in given.items()}, **{name: Kept() for name in outputs}}
    )
    SequentialRunner().run(pipeline, catalog)
    return {name: catalog.load(name) for name in outputs}


def test_the_stage_writes_what_the_catalog_declares() -> None:
    made = run()
    tables = ("raw_interactions", "validated_interactions", "quarantine")
    made |= {name: made[name].collect() for name in tables}
    assert made["validated_interactions"].schema == schema.VALIDATED_INTERACTIONS
    assert made["validated_items"].schema == schema.VALIDATED_ITEMS
    assert made["quarantine"].schema == schema.QUARANTINE
    assert made["planted_truth"].schema == schema.PLANTED_TRUTH
    rows_in = len(made["raw_interactions"]) + len(made["raw_items"])
    assert rows_in == sum(len(made[n]) for n in ("validated_interactions", "validated_items", "quarantine"))
    assert made["data_validation_metrics"]["interactions_rows_out"] == len(made["validated_interactions"])
    assert made["validation_report"]["source"] == "synthetic"
    assert made["validation_page"].startswith("<!doctype html>")
    assert "index.html" in made["data_docs"]
    assert made["data_profile"] == made["validation_report"]["profile"]
    assert made["validation_report"]["drift"] is None


def test_forgotten_users_reach_nothing_and_are_counted() -> None:
    user = run()["raw_interactions"].collect()["user_id"].drop_nulls()[0]
    made = run(forgotten_users={"users": [user, "nobody"]})
    assert user not in made["raw_interactions"].collect()["user_id"]
    assert user not in made["planted_truth"].filter(pl.col("kind") == "user")["id"]
    rows = made["source_facts"]["forgotten"]["rows"]
    assert made["source_facts"]["forgotten"]["users"] == 2
    assert rows == run()["raw_interactions"].filter(pl.col("user_id") == user).collect().height > 0
    assert f"{rows:,} rows of 2 users who asked for it" in made["validation_page"]


def test_the_count_of_forgotten_rows_is_there_before_anything_is_saved() -> None:
    user = run()["raw_interactions"].collect()["user_id"].drop_nulls()[0]
    *_, facts = read_source(PARAMETERS, {"users": [user]})
    assert facts["forgotten"]["rows"] > 0


def test_nodes_stand_in_the_stages_group_under_plain_dataset_names() -> None:
    pipeline = create_pipeline()
    assert {node.namespace for node in pipeline.nodes} == {"data_validation"}
    assert [node.name.split(".")[-1] for node in pipeline.nodes] == [
        "read_source",
        "validate_tables",
        "build_reports",
    ]
    assert pipeline.inputs() == {"params:data_validation", "forgotten_users", "previous_data_profile"}
