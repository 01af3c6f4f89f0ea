"""Do the inputs of a node fit together? Each carries the content hashes of everything it was made from.

Our choice: two artefacts fit if they were made in one workspace, and if whatever dataset both of them, or
one of them and the node itself, know by name has one content hash. Hashes are of contents: a stage that
ran again and wrote the same bytes breaks nothing. `previous_*` entries are recorded, not compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prismrec.artifacts.manifest import PREVIOUS_PREFIX, Provenance
from prismrec.errors import LineageError


@dataclass(frozen=True)
class Source:
    """An input of a node, as the check sees it.

    Args:
        name: the catalog's name for it.
        stage: the stage that wrote it.
        workspace: the workspace it was written in.
        ancestors: content hashes of all it was made from.
        sha256: its own content hash; empty for what lives in memory only.
        version: Kedro's version, only to tell which of two is older; newer ones sort later.
        previous: what fed back into it from an earlier run; only what lives in memory passes that on.
    """

    name: str
    stage: str
    workspace: str
    ancestors: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    version: str = ""
    previous: Mapping[str, str] = field(default_factory=dict)

    @property
    def hashes(self) -> dict[str, str]:
        """Content hashes of all ancestors and, if it has one, its own."""
        return {**self.ancestors, **({self.name: self.sha256} if self.sha256 else {})}


@dataclass(frozen=True)
class Stages:
    """What the mend needs to know about the project: the stages' order, who writes what, and where.

    Args:
        order: all stages, first to last.
        of_dataset: the stage that writes a dataset.
        workspace: the workspace of this run.
        environment: the Kedro environment to name in commands; empty for the default.
    """

    order: Sequence[str]
    of_dataset: Mapping[str, str]
    workspace: str
    environment: str = ""

    def between(self, changed: str, stale: Source) -> list[str]:
        """Return the stages, in order, to run again so that `stale` follows the changed dataset."""
        reached = {self.of_dataset.get(name, "") for name in stale.ancestors} | {stale.stage}
        first = self.of_dataset.get(changed)
        after = self.order[self.order.index(first) + 1 :] if first in self.order else self.order
        return [stage for stage in after if stage in reached] or [stale.stage]


def stage_command(stages: Sequence[str], environment: str = "") -> str:
    """Return the command that runs these stages."""
    of_stages = f" --pipelines {','.join(stages)}" if any(stages) else ""
    of_environment = f" --env {environment}" if environment else ""
    return f"kedro run{of_stages}{of_environment}"


def merge(inputs: Sequence[Source], stages: Stages) -> Provenance:
    """Check that a node's inputs fit together and return what its outputs are made from.

    Args:
        inputs: the datasets the node reads; parameters are none of them.
        stages: the project, for the mend.

    Raises:
        LineageError: if two inputs were made from different versions of one dataset, or in two workspaces.
    """
    _check_workspaces(inputs, stages)
    followed = [source for source in inputs if not source.name.startswith(PREVIOUS_PREFIX)]
    _check_versions(followed, stages)
    passed_on = {name: sha256 for source in inputs for name, sha256 in source.previous.items()}
    fed_back = {s.name: s.sha256 for s in inputs if s.name.startswith(PREVIOUS_PREFIX)}
    return Provenance(
        ancestors={name: sha256 for source in followed for name, sha256 in source.hashes.items()},
        previous={**passed_on, **fed_back},
    )


def _check_workspaces(inputs: Sequence[Source], stages: Stages) -> None:
    for stranger in inputs:
        if stranger.workspace == stages.workspace:
            continue
        ours = next((s for s in inputs if s.workspace == stages.workspace), None)
        other = f"{ours.name!r} in {ours.workspace!r}" if ours else f"this run works in {stages.workspace!r}"
        raise LineageError(
            f"Artefacts of two workspaces are mixed: {stranger.name!r} was made in workspace "
            f"{stranger.workspace!r}, but {other}.",
            f"{stranger.name} ({_short(stranger.sha256)})",
            f"Make it again in this workspace: {stage_command([stranger.stage], stages.environment)}",
        )


def _check_versions(inputs: Sequence[Source], stages: Stages) -> None:
    known: dict[str, list[Source]] = {}
    for source in inputs:
        for name in source.hashes:
            known.setdefault(name, []).append(source)
    # The inputs themselves first: "made from another X than this X" is the plainest thing to say.
    names = {source.name for source in inputs}
    for name in sorted(known, key=lambda name: (name not in names, name)):
        # Newest last; the dataset itself is the newest of all that know it.
        sources = sorted(known[name], key=lambda source: (source.name == name, source.version))
        newest = sources[-1]
        for stale in sources[:-1]:
            if stale.hashes[name] != newest.hashes[name]:
                raise _disagreement(name, stale, newest, stages)


def _disagreement(name: str, stale: Source, newest: Source, stages: Stages) -> LineageError:
    if newest.name == name:
        what = f"{stale.name!r} was made from another version of {name!r} than the one there is now."
    else:
        what = f"{stale.name!r} and {newest.name!r} were made from different versions of {name!r}."
    facts = [
        f"{source.name} (workspace {source.workspace}) knows {name} {_short(source.hashes[name])}"
        for source in (stale, newest)
    ]
    again = stage_command(stages.between(name, stale), stages.environment)
    return LineageError(what, "; ".join(facts), f"Bring {stale.name!r} up to date: {again}")


def _short(sha256: str) -> str:
    return sha256[:12] or "in memory"
