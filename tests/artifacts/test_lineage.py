"""Inputs fit together or are refused, with the stages to run again in order."""

import pytest

from prismrec.artifacts.lineage import Source, Stages, merge, stage_command
from prismrec.errors import LineageError

STAGES = Stages(
    order=["sequence_building", "lightweight_encoder", "codebook", "llm_recommender"],
    of_dataset={"item_map": "sequence_building", "histories": "sequence_building",
                "item_vectors": "lightweight_encoder", "item_codes": "codebook"},
    workspace="demo",
)  # fmt: skip


def source(name: str, sha256: str = "x", version: str = "1", workspace: str = "demo", **ancestors: str) -> Source:
    stage = STAGES.of_dataset[name.removeprefix("previous_")]
    return Source(name, stage, workspace, ancestors, sha256, version)


def test_what_fits_is_merged() -> None:
    inputs = [
        source("histories", "h", item_map="m"),
        source("item_codes", "c", item_map="m", item_vectors="v"),
    ]
    merged = merge(inputs, STAGES)
    assert merged.ancestors == {"item_map": "m", "item_vectors": "v", "histories": "h", "item_codes": "c"}
    assert merged.previous == {}


def test_no_inputs_have_no_ancestors() -> None:
    assert merge([], STAGES).ancestors == {}


def test_previous_entries_are_recorded_but_not_compared() -> None:
    inputs = [source("histories", item_map="new"), source("previous_item_map", "old", item_map="older")]
    merged = merge(inputs, STAGES)
    assert merged.previous == {"previous_item_map": "old"}
    assert "previous_item_map" not in merged.ancestors
    assert merged.ancestors["item_map"] == "new"


def test_what_fed_back_passes_through_memory() -> None:
    memory = Source("draft", "sequence_building", "demo", previous={"previous_item_map": "old"})
    merged = merge([memory], STAGES)
    assert merged.previous == {"previous_item_map": "old"}
    assert merged.ancestors == {}


@pytest.mark.parametrize("order", [1, -1])
def test_the_older_of_two_is_brought_up_to_date_with_all_between(order: int) -> None:
    inputs = [
        source("histories", version="3", item_map="new"),
        source("item_codes", version="2", item_map="old", item_vectors="v"),
    ]
    with pytest.raises(LineageError) as caught:
        merge(inputs[::order], STAGES)
    error = caught.value
    assert error.what == "'item_codes' and 'histories' were made from different versions of 'item_map'."
    assert "item_codes (workspace demo) knows item_map old" in error.where
    assert error.mend.endswith("kedro run --pipelines lightweight_encoder,codebook")


def test_an_input_itself_is_what_the_others_have_to_follow() -> None:
    inputs = [source("item_map", "new", version="1"), source("item_vectors", version="2", item_map="old")]
    with pytest.raises(LineageError, match="'item_vectors' was made from another version of 'item_map'") as e:
        merge(inputs, STAGES)
    assert e.value.mend.endswith("kedro run --pipelines lightweight_encoder")


def test_two_workspaces_are_both_named() -> None:
    with pytest.raises(LineageError) as caught:
        merge([source("item_map"), source("item_codes", workspace="ml1m")], STAGES)
    assert "'item_codes' was made in workspace 'ml1m', but 'item_map' in 'demo'" in caught.value.what


def test_another_workspace_alone_is_refused_too() -> None:
    with pytest.raises(LineageError, match="this run works in 'demo'"):
        merge([source("item_codes", workspace="ml1m")], STAGES)


def test_commands_name_stages_and_environment() -> None:
    assert stage_command([]) == "kedro run"
    assert stage_command(["codebook", "evaluation"], "ml1m") == "kedro run --pipelines codebook,evaluation --env ml1m"
