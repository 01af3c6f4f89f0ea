"""What watches a run: binds datasets, checks inputs and their lineage, and records what each stage did.

Before a run: the configuration is checked, and everything the run reads from disk has to exist; what a run of another
stage left that was cut off is passed over. Before each node: its inputs have to fit together
(`prismrec.artifacts.lineage`). Before each save: the dataset is told what the data was made from. After a stage's last
save: its record is written (`prismrec.artifacts.stage_record`). After a run that succeeded: the states its trainings
kept are removed. Nodes know nothing of all this, and partial runs are no special case. Where several processes train
together, each runs the same nodes, and all but the first keep their outputs in memory.
"""

import logging
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic import BaseModel

from prismrec.artifacts import stage_record
from prismrec.artifacts.lineage import Source, Stages, merge, stage_command
from prismrec.artifacts.manifest import PREVIOUS_PREFIX, Provenance, sha256_parameters
from prismrec.configuration import (
    BASE,
    LOCAL,
    Configuration,
    check_globals,
    check_parameters,
    read_yaml,
)
from prismrec.errors import MissingArtefact
from prismrec.kedro_datasets import ArtefactDataset, CheckpointsDataset, UnwrittenDataset
from prismrec.pipeline_registry import STAGES, register_pipelines

log = logging.getLogger(__name__)

# A node's output that is still to be saved; "" stands for the node itself.
Step = tuple[str, str]


@dataclass
class StageProgress:
    """What one stage has done so far in this run."""

    pending: set[Step]
    started: str = ""
    nodes: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # by node
    costs: dict[str, Any] = field(default_factory=dict)  # of its trainings
    peak_mb: float = 0.0
    peak_is_own: bool = True


@dataclass
class Run:
    """One run: its catalog, what is known of the data in memory, and how far each stage is."""

    catalog: DataCatalog
    version: str
    stages: Stages
    progress: dict[str, StageProgress]
    in_memory: dict[str, Source] = field(default_factory=dict)
    provenance: dict[str, Provenance] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)

    def artefact(self, name: str) -> ArtefactDataset[Any, Any] | None:
        """Return the dataset of that name if it is one of ours, and neither parameters nor memory."""
        dataset = self.catalog.get(name)
        return dataset if isinstance(dataset, ArtefactDataset) else None

    def source(self, name: str) -> Source | None:
        """Return what is known of a node's input; None for parameters and for what does not exist."""
        dataset = self.artefact(name)
        if dataset is None:
            return self.in_memory.get(name)
        manifest = dataset.manifest()
        if manifest is None:
            return None
        return Source(
            name=name,
            stage=manifest.stage,
            workspace=manifest.workspace,
            ancestors=manifest.ancestors,
            sha256=manifest.sha256,
            version=dataset.resolve_load_version() or "",
        )


class ArtefactHooks:
    """Kedro hooks around every run of this project."""

    _context: KedroContext
    _globals: dict[str, Any]
    _stages: Stages
    _parameters: dict[str, Any]
    _run: Run

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check globals and parameters, with better messages than Kedro's own check would give.

        Raises:
            ParameterError: naming the key, the value and the file to mend.
        """
        self._context = context
        loader = context.config_loader
        configuration = Configuration(Path(loader.conf_source), context.env or LOCAL, loader.runtime_params)
        check_globals(configuration)
        check_parameters(loader["parameters"], configuration)
        self._globals = loader["globals"]
        self._stages = _project_stages(configuration, self._globals["workspace"])

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, parameters: dict[str, Any]) -> None:
        """Tell each dataset its name, the stage that writes it, and the workspace."""
        self._parameters = parameters
        for name in catalog:
            dataset = catalog.get(name)
            if isinstance(dataset, ArtefactDataset):
                stage = self._stages.of_dataset.get(name, "")
                dataset.bind(name, stage, self._stages.workspace, self._stages.environment, self._records)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check that all a run reads from disk exists, and fix which versions are the previous ones.

        Raises:
            MissingArtefact: naming everything that is missing and the command to run first.
        """
        steps: dict[str, set[Step]] = {}
        for node in pipeline.nodes:
            steps.setdefault(stage_of(node), set()).update((node.name, name) for name in ("", *node.outputs))
        progress = {stage: StageProgress(pending) for stage, pending in steps.items()}
        self._run = Run(catalog, run_params["run_id"], self._stages, progress)
        self._open_running_stages()
        self._say_what_was_cut_off(pipeline)
        self._check_inputs(pipeline)
        if not is_main_process():
            for name in pipeline.all_outputs():
                catalog[name] = UnwrittenDataset()
        for dataset in map(self._run.artefact, pipeline.inputs()):
            if dataset is not None and dataset.nullable:
                dataset.pin()

    @hook_impl
    def before_dataset_loaded(self, node: Node) -> None:
        """Start the node's clock: reading its inputs is part of its cost."""
        self._start(node)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Check that the node's inputs fit together.

        Raises:
            LineageError: naming the two that do not, and the stages to run again.
        """
        self._start(node)
        run, progress = self._run, self._run.progress[stage_of(node)]
        sources = [source for source in map(run.source, node.inputs) if source is not None]
        run.provenance[node.name] = merge(sources, run.stages)
        for source in sources:
            if source.sha256 and source.name not in progress.outputs:
                progress.inputs[source.name] = source.sha256
                progress.versions[source.name] = source.version

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Hand over to the dataset what the data to save was made from."""
        run, provenance = self._run, self._run.provenance[node.name]
        dataset = run.artefact(dataset_name)
        if dataset is not None:
            dataset.hand_over(provenance, sha256_parameters(self._stage_parameters(stage_of(node))))
            return
        run.in_memory[dataset_name] = Source(
            name=dataset_name,
            stage=stage_of(node),
            workspace=run.stages.workspace,
            ancestors=provenance.ancestors,
            version=run.version,
            previous=provenance.previous,
        )

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        """Note the saved dataset; if it was the stage's last, write the stage's record."""
        progress = self._run.progress[stage_of(node)]
        dataset = self._run.artefact(dataset_name)
        manifest = dataset.manifest() if dataset is not None else None
        if dataset is not None and manifest is not None:
            progress.outputs[dataset_name] = "volatile" if dataset.volatile else manifest.sha256
            progress.versions[dataset_name] = dataset.resolve_load_version() or ""
        if dataset_name == f"{stage_of(node)}_metrics":
            progress.metrics = data
        self._finish(node, dataset_name)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Note that the node ran; if the stage had nothing left but that, write its record."""
        progress = self._run.progress[stage_of(node)]
        progress.nodes.append(node.name)
        progress.costs.update(stage_record.take_costs())
        self._finish(node, "")

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Remove the states of trainings, now that what they trained is saved."""
        for name in sorted(pipeline.inputs()):
            dataset = catalog.get(name)
            if isinstance(dataset, CheckpointsDataset) and is_main_process():
                dataset.clear()

    def _stage_parameters(self, stage: str) -> dict[str, Any]:
        value = self._parameters.get(f"params:{stage}", {})
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value)

    @property
    def _records(self) -> Path:
        workspace = Path(self._globals["workspaces"]) / self._stages.workspace
        return self._context.project_path / workspace / stage_record.RECORDS

    def _open_running_stages(self) -> None:
        """A run reads the newest of its own stages, of other stages and of `previous_*` what is settled."""
        for name, stage in self._stages.of_dataset.items():
            dataset = self._run.artefact(name) if stage in self._run.progress else None
            if dataset is not None and not name.startswith(PREVIOUS_PREFIX):
                dataset.open()

    def _say_what_was_cut_off(self, pipeline: Pipeline) -> None:
        found = [d for d in map(self._run.artefact, sorted(pipeline.inputs())) if d is not None and d.unsettled()]
        for stage in dict.fromkeys(dataset.stage for dataset in found):
            log.warning(
                "The last run of %s was cut off, or is still under way: what the run before it left is read. To go on "
                "with it: %s",
                stage,
                stage_command([stage], self._stages.environment),
            )

    def _check_inputs(self, pipeline: Pipeline) -> None:
        names = sorted(n for n in pipeline.inputs() if not n.startswith(("params:", "parameters")))
        for node in pipeline.nodes:
            whole = register_pipelines()[stage_of(node)]
            skipped = sorted((set(names) & set(node.inputs) & whole.all_outputs()) - set(self._run.catalog))
            if skipped:
                again = stage_command([stage_of(node)], self._stages.environment)
                raise MissingArtefact(
                    f"This run starts inside of a stage, after {skipped[0]!r}, which is never kept on disk.",
                    node.name,
                    f"Start at the stage's beginning: {again}",
                )
        datasets = [dataset for dataset in map(self._run.artefact, names) if dataset is not None]
        missing = [d for d in datasets if not d.nullable and not d.exists()]
        if missing:
            writers = {dataset.stage for dataset in missing}
            first = [stage for stage in STAGES if stage in writers]
            raise MissingArtefact(
                f"These inputs do not exist yet: {', '.join(d.name for d in missing)}.",
                f"workspace {self._stages.workspace!r}",
                f"Write them first: {stage_command(first, self._stages.environment)}",
            )

    def _start(self, node: Node) -> None:
        if node.name not in self._run.clock:
            self._run.clock[node.name] = time.perf_counter()
            progress = self._run.progress[stage_of(node)]
            progress.started = progress.started or datetime.now(UTC).isoformat(timespec="seconds")
            progress.peak_is_own &= stage_record.reset_peak_memory()

    def _finish(self, node: Node, output: str) -> None:
        """Take one step off the stage's list; after the last, write its record."""
        run, stage = self._run, stage_of(node)
        progress = run.progress[stage]
        now = time.perf_counter()
        name = node.name.rpartition(".")[2]
        progress.seconds[name] = progress.seconds.get(name, 0.0) + now - run.clock[node.name]
        run.clock[node.name] = now
        progress.peak_mb = max(progress.peak_mb, stage_record.peak_memory_mb())
        progress.pending.discard((node.name, output))
        if not progress.pending and is_main_process():
            self._write_record(stage, progress)

    def _write_record(self, stage: str, progress: StageProgress) -> None:
        parameters = self._stage_parameters(stage)
        manifest = {
            "stage": stage,
            "workspace": self._stages.workspace,
            "nodes": sorted(progress.nodes),
            "inputs": progress.inputs,
            "outputs": progress.outputs,
            "parameters": parameters,
            "seed": parameters.get("seed"),
            "code": stage_record.code_version(self._context.project_path),
            "libraries": stage_record.library_versions(),
            "threads": stage_record.threads(),
            "metrics": progress.metrics,
        }
        run = {
            "started": progress.started,
            "seconds": round(sum(progress.seconds.values()), 3),
            "node_seconds": {node: round(seconds, 3) for node, seconds in progress.seconds.items()},
            "peak_rss_mb": round(progress.peak_mb, 1),
            "peak_rss_is_of_this_stage": progress.peak_is_own,
            "environment": self._context.env or LOCAL,
            "versions": progress.versions,
            **({"trainings": progress.costs} if progress.costs else {}),
            **stage_record.host(),
        }
        stage_record.write_record(self._records / stage / self._run.version, manifest, run)


def is_main_process() -> bool:
    """Whether this process is the only one of a run, or the first of several (`accelerate launch`), which writes."""
    return os.environ.get("RANK", "0") == "0"


def stage_of(node: Node) -> str:
    """Return a node's stage, which is the outermost part of its namespace."""
    assert node.namespace, f"node {node.name} has no namespace: every node belongs to a stage"
    return str(node.namespace).split(".")[0]


def _project_stages(configuration: Configuration, workspace: str) -> Stages:
    """The project as the lineage check sees it; who writes what is said by the catalog's file names."""
    written = {
        name: stage
        for stage in STAGES
        for environment in (BASE, configuration.environment)
        for file in (configuration.conf / environment).glob(f"catalog_{stage}.yml")
        for name in read_yaml(file)
    }
    environment = "" if configuration.environment == LOCAL else configuration.environment
    return Stages(STAGES, written, workspace, environment)
