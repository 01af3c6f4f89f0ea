"""The project's own configuration: known keys only, our dataset types only, nothing left in memory."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from kedro.pipeline import Pipeline
from kedro.validation import TypeExtractor

from prismrec import kedro_datasets
from prismrec.configuration import (
    BASE,
    LOCAL,
    Configuration,
    check_globals,
    check_parameters,
    environments,
    read_yaml,
)
from prismrec.hooks import stage_of
from prismrec.kedro_datasets import ArtefactDataset
from prismrec.parameters import stage_model
from prismrec.pipeline_registry import DEFAULT, STAGES, register_pipelines
from prismrec.pipelines.choices import PREVIOUS_CHOICES
from prismrec.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"
OVERRIDING = [name for name in environments(CONF) if name not in (BASE, LOCAL)]
LAYERS = (
    "01_raw",
    "02_intermediate",
    "03_primary",
    "04_feature",
    "05_model_input",
    "06_models",
    "07_model_output",
    "08_reporting",
)


ASKED = {"forgotten_users"}  # written by a command instead of a stage
# Where running trainings keep their state: read as a path, written by nobody's save, no result.
CHECKPOINTS = {
    f"{stage}_checkpoints" for stage in ("lightweight_encoder", "llm_recommender", "interest_dictionary", "evaluation")
}


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return {stage: register_pipelines()[stage] for stage in STAGES}


def loader(environment: str = BASE) -> OmegaConfigLoader:
    return OmegaConfigLoader(str(CONF), env=environment, **CONFIG_LOADER_ARGS)


def catalog(environment: str = BASE) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = loader(environment)["catalog"]
    return entries


def keys_of(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every leaf of nested mappings."""
    if not isinstance(value, Mapping):
        yield path
        return
    for key, inner in value.items():
        yield from keys_of(inner, f"{path}.{key}" if path else key)


def test_registered_stages_are_in_the_order_of_the_house() -> None:
    assert STAGES
    assert list(STAGES) == [stage for stage in STAGES if stage in STAGES]


def test_every_node_belongs_to_its_pipelines_stage(pipelines: dict[str, Pipeline]) -> None:
    for stage, pipeline in pipelines.items():
        assert {stage_of(node) for node in pipeline.nodes} == {stage}


def test_default_is_all_stages(pipelines: dict[str, Pipeline]) -> None:
    nodes = {node.name for pipeline in pipelines.values() for node in pipeline.nodes}
    assert {node.name for node in register_pipelines()[DEFAULT].nodes} == nodes


def test_nodes_take_their_stages_typed_parameters(pipelines: dict[str, Pipeline]) -> None:
    for stage, pipeline in pipelines.items():
        read = {name for name in pipeline.datasets() if name.startswith("param")}
        assert read <= {f"params:{stage}"}
        typed = TypeExtractor({stage: pipeline}).extract_types_from_pipelines()
        assert typed == ({stage: stage_model(stage)} if read else {})


@pytest.mark.parametrize("environment", environments(CONF))
def test_every_environments_parameters_and_globals_are_accepted(environment: str) -> None:
    configuration = Configuration(CONF, environment)
    check_globals(configuration)
    parameters = loader(environment)["parameters"]
    assert set(STAGES) <= set(parameters)
    check_parameters(parameters, configuration)


@pytest.mark.parametrize("environment", OVERRIDING)
def test_environments_override_only_what_base_has(environment: str) -> None:
    for file in (CONF / environment).glob("*.yml"):
        known = set(keys_of(read_yaml(CONF / BASE / file.name)))
        overriding = set(keys_of(read_yaml(file)))
        assert overriding <= known, f"{file.name}: {overriding - known}"


@pytest.mark.parametrize("stage", STAGES)
def test_base_sets_every_parameter_and_nothing_hides_in_defaults(stage: str) -> None:
    file = CONF / BASE / f"parameters_{stage}.yml"
    content = read_yaml(file)
    assert set(content) == {stage}
    assert content[stage].keys() == stage_model(stage).model_fields.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_is_described(stage: str) -> None:
    fields = stage_model(stage).model_fields
    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("environment", [BASE, *OVERRIDING])
def test_every_entry_is_ours_versioned_and_in_its_layers_folder(environment: str) -> None:
    root = f"{loader(environment)['globals']['workspaces']}/{loader(environment)['globals']['workspace']}/"
    for name, entry in catalog(environment).items():
        module, _, type_name = entry["type"].rpartition(".")
        assert module == "prismrec.kedro_datasets", name
        if name in CHECKPOINTS:
            assert type_name == "CheckpointsDataset"
        else:
            assert issubclass(getattr(kedro_datasets, type_name), ArtefactDataset), name
            assert entry["versioned"] is True, name
        folder, _, rest = entry["filepath"].removeprefix(root).partition("/")
        assert entry["filepath"].startswith(root), name
        assert rest, name
        assert folder in LAYERS, name
        assert entry["metadata"]["kedro-viz"]["layer"] == folder.partition("_")[2], name


def test_previous_entries_share_the_files_of_what_they_feed_back_from() -> None:
    entries = catalog()
    nullable = {name for name, entry in entries.items() if entry.get("nullable")} - ASKED
    previous = {name for name in entries if name.startswith("previous_")}
    assert nullable == previous - {PREVIOUS_CHOICES}  # a final fit without them is refused before it begins
    for name in previous:
        current = entries[name.removeprefix("previous_")]
        assert entries[name]["filepath"] == current["filepath"]
        # Any entry may be read as a folder, as the parent dictionary is: its vectors lie beside the model's own files.
        assert entries[name]["type"] in (current["type"], "prismrec.kedro_datasets.FolderDataset")


def test_entries_stand_in_the_file_of_the_stage_that_writes_them(pipelines: dict[str, Pipeline]) -> None:
    for stage, pipeline in pipelines.items():
        declared = set(read_yaml(CONF / BASE / f"catalog_{stage}.yml"))
        written = {name for name in declared - ASKED - CHECKPOINTS if not name.startswith("previous_")}
        assert written <= pipeline.all_outputs(), stage
        assert f"{stage}_metrics" in written
        assert declared - written - {PREVIOUS_CHOICES} <= pipeline.inputs(), stage


def test_nothing_falls_through_to_memory_between_stages(pipelines: dict[str, Pipeline]) -> None:
    entries = set(catalog())
    for stage, pipeline in pipelines.items():
        read = {name for name in pipeline.inputs() if not name.startswith("params:")}
        assert read <= entries, f"{stage} reads from memory: {read - entries}"
        # What nobody reads is a result, and a result that is not kept was computed for nothing.
        assert pipeline.outputs() <= entries, f"{stage} drops: {pipeline.outputs() - entries}"


def test_every_entry_is_written_or_fed_back(pipelines: dict[str, Pipeline]) -> None:
    written = {name for pipeline in pipelines.values() for name in pipeline.all_outputs()}
    for stage in STAGES:
        for name in read_yaml(CONF / BASE / f"catalog_{stage}.yml"):
            assert name.removeprefix("previous_") in written | ASKED | CHECKPOINTS, name


def test_base_and_its_files_say_what_each_line_means() -> None:
    """Every key of a parameters file has a comment, on its line or above it."""
    for stage in STAGES:
        file = CONF / BASE / f"parameters_{stage}.yml"
        lines = file.read_text(encoding="utf-8").splitlines()
        for above, line in zip(["", *lines], lines, strict=False):
            if re.match(r"\s+[a-z_0-9]+:", line) and "#" not in line:
                assert above.strip().startswith("#"), f"{file.name}: {line.strip()}"
