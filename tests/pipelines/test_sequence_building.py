"""The stage `sequence_building`, run twice by Kedro's runner: the second run extends the first's maps."""

from typing import Any

import numpy as np
import polars as pl
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from prismrec.data import schema
from prismrec.parameters.sequence_building import SequenceBuildingParameters
from prismrec.pipelines.inputs import event_table
from prismrec.pipelines.sequence_building.pipeline import create_pipeline

PARAMETERS = SequenceBuildingParameters(seed=5, min_item_events=1, min_user_events=3)


def interactions(users: str) -> pl.LazyFrame:
    rows = [(user, item, time) for user in users for time, item in enumerate("abcd")]
    return pl.DataFrame([(*row, None, None) for row in rows], schema=schema.VALIDATED_INTERACTIONS, orient="row").lazy()


def run(
    users: str,
    items: str,
    previous: dict[str, Any] | None = None,
    forgotten: list[str] | None = None,
    times_known: bool = True,
) -> dict[str, Any]:
    pipeline = create_pipeline()
    inputs = {
        "params:sequence_building": PARAMETERS,
        "validated_interactions": interactions(users),
        "validated_items": pl.DataFrame(
            [(item, item.upper(), "", []) for item in items], schema=schema.VALIDATED_ITEMS, orient="row"
        ),
        "previous_item_map": previous and previous["item_map"],
        "previous_user_map": previous and previous["user_map"],
        "forgotten_users": {"users": forgotten} if forgotten else None,
        "data_validation_metrics": {"times_known": times_known},
    }
    outputs = pipeline.all_outputs()
    assert pipeline.inputs() == set(inputs)
    catalog = DataCatalog(
        {
            **{name: MemoryDataset(value) for name, value in inputs.items()},
            **{name: MemoryDataset() for name in outputs},
        }
    )
    SequentialRunner().run(pipeline, catalog)
    return {name: catalog.load(name) for name in outputs}


def test_a_second_run_extends_the_first() -> None:
    first = run("nm", "abcd")
    assert first["user_map"][schema.USER_ID].to_list() == ["m", "n"]
    second = run("an", "dcbae", first)
    assert second["user_map"].rows() == [(0, "m", False), (1, "n", True), (2, "a", True)]
    assert second["item_map"][schema.ITEM_ID].to_list() == list("abcde")
    assert second["histories"].user_index_U.tolist() == [1, 2]
    assert second["sequence_building_metrics"]["cases"]["test"]["users"] == 2


def test_a_forgotten_user_leaves_an_index_without_an_id() -> None:
    first = run("nm", "abcd")
    second = run("na", "abcd", first, forgotten=["m"])
    ids = second["user_map"][schema.USER_ID].to_list()
    assert ids[1:] == ["n", "a"]
    assert "m" not in ids[0]
    assert second["histories"].user_index_U.tolist() == [1, 2]
    assert run("na", "abcd", second, forgotten=["m"])["user_map"].equals(second["user_map"])


def test_without_times_events_keep_their_order_and_no_model_is_told_of_any() -> None:
    """Places of rows stand for times where a source has none."""
    timed, untimed = run("nm", "abcd"), run("nm", "abcd", times_known=False)
    for key in ("offsets", "items", "user_index_U"):
        assert np.array_equal(getattr(untimed["histories"], key), getattr(timed["histories"], key)), key
    assert untimed["splits"].equals(timed["splits"])
    assert not untimed["sequence_building_metrics"]["times_known"]
    assert timed["histories"].timed
    assert event_table(timed["histories"]).timed
    assert not untimed["histories"].timed
    assert not event_table(untimed["histories"]).timed
