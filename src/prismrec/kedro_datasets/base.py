"""The one base of our Kedro datasets: versions that are complete or absent, never in between.

A version is a folder, `<filepath>/<version>/`, that holds the payload under the entry's own name (a file or
a folder) and `manifest.json`. It is written in a temporary folder and renamed into place, so that the
latest version Kedro finds is always a whole one. Loading verifies the payload's checksums: at the sizes
here that costs milliseconds.

What a stage writes belongs together, and appears together: the record at a stage's end settles it. Versions newer than
the last record are those of a run that is under way or was cut off; only runs of that very stage read them.
"""

from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro.io.core import VersionNotFoundError

from prismrec.artifacts import manifest as manifests
from prismrec.artifacts.atomic import atomic_folder, remove_folder
from prismrec.artifacts.lineage import stage_command
from prismrec.artifacts.manifest import Manifest, Provenance
from prismrec.artifacts.stage_record import last_record
from prismrec.errors import MissingArtefact

Saved = TypeVar("Saved")
Loaded = TypeVar("Loaded")


class MissingDataset(MissingArtefact, DatasetError):
    """A `MissingArtefact` that Kedro passes on as it is, without wrapping it into its own error."""


class ArtefactDataset(AbstractVersionedDataset[Saved, Loaded | None], Generic[Saved, Loaded]):
    """Base class: subclasses say how the payload is written and read.

    Args:
        filepath: the entry's folder; its last part names the payload in each version.
        version: Kedro's pair of load and save version; the newest and a new one by default.
        nullable: load() returns None while no version exists, instead of raising.
        volatile: its bytes differ from run to run for a reason outside of the project; the stage's manifest then
            says so instead of giving a hash.
        keep: newest versions that stay on the disk; older ones are removed once a new one is written. All by default.
        standalone: it needs nothing else that its stage writes, so that its newest version is read even where the
            stage's run was cut off.
        metadata: ignored here; Kedro-Viz reads the layer from it.
    """

    # Provenance is handed over in memory, so Kedro's ParallelRunner has to refuse these datasets.
    _SINGLE_PROCESS = True

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        nullable: bool = False,
        volatile: bool = False,
        keep: int | None = None,
        standalone: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            filepath=PurePosixPath(filepath),
            version=version or Version(None, None),
            exists_function=_is_complete,
        )
        assert self._filepath.name != manifests.MANIFEST_NAME, "the payload needs a name of its own"
        if keep is not None and keep < 1:
            raise DatasetError(f"{filepath}: keep is {keep}, but at least one version has to stay.")
        self.nullable = nullable
        self.keep = keep
        self.volatile = volatile
        self.standalone = standalone
        self.metadata = metadata
        self.name = self._filepath.stem
        self.stage = ""
        self.workspace = ""
        self.environment = ""
        self._provenance = Provenance()
        self._parameters_sha256 = ""
        self._pinned_absent = False
        self._records: Path | None = None
        self._stage_runs = False

    @abstractmethod
    def _write(self, data: Saved, path: Path) -> None:
        """Write the payload to `path`, which does not exist yet."""

    @abstractmethod
    def _read(self, path: Path) -> Loaded:
        """Read the payload at `path`."""

    def bind(self, name: str, stage: str, workspace: str, environment: str = "", records: Path | None = None) -> None:
        """Tell the dataset who it is, for its manifests and its error messages.

        Args:
            name: the catalog entry.
            stage: the stage that writes it.
            workspace: the workspace of this run.
            environment: the Kedro environment to name in commands; empty for the default.
            records: the folder of the workspace's stage records, which settle versions; None: every version counts.
        """
        self.name, self.stage, self.workspace, self.environment = name, stage, workspace, environment
        self._records = records

    def open(self) -> None:
        """Read the newest version, settled or not: its own stage runs."""
        self._stage_runs = True
        self.release()

    def unsettled(self) -> str | None:
        """Return the newest version if a run that is under way, or was cut off, left it; else None."""
        newest = [Path(path).parent.name for path in super()._get_versions()[:1]]
        return newest[0] if newest and not self._is_settled(newest[0], self._last_record()) else None

    def _last_record(self) -> str | None:
        """The version up to which this dataset is settled; None: all are."""
        if self._records is None or self.standalone or self._stage_runs:
            return None
        return last_record(self._records, self.stage)

    @staticmethod
    def _is_settled(version: str, last: str | None) -> bool:
        return last is None or version <= last

    def _get_versions(self) -> list[str]:
        last = self._last_record()
        return [path for path in super()._get_versions() if self._is_settled(Path(path).parent.name, last)]

    def hand_over(self, provenance: Provenance, parameters_sha256: str = "") -> None:
        """Say what the next saved data was made from; it goes into that version's manifest."""
        self._provenance, self._parameters_sha256 = provenance, parameters_sha256

    def pin(self) -> None:
        """Fix the version to load to the newest settled one there is now, or to none.

        A `previous_*` entry shares its files with the entry that the same run writes: pinned at the start
        of the run, it stays the previous one.
        """
        if self.exists():
            self._versions = Version(self.resolve_load_version(), self._versions.save)
        else:
            self._pinned_absent = True

    @property
    def _versions(self) -> Version:
        """Kedro's pair of versions, which every one of our datasets has."""
        assert self._version is not None
        return self._version

    @_versions.setter
    def _versions(self, versions: Version) -> None:
        self._version = versions

    @property
    def command(self) -> str:
        """The command that writes this dataset."""
        return stage_command([self.stage], self.environment)

    def manifest(self) -> Manifest | None:
        """Return the manifest of the version that load() returns, or None where there is none.

        Raises:
            MissingDataset: if there is no version and the dataset is not nullable.
        """
        return self._checked_manifest()[0] if self.exists() or not self.nullable else None

    @property
    def entry(self) -> Path:
        """The folder that holds this entry's versions."""
        return Path(str(self._filepath))

    def payload(self) -> Path:
        """Return the path of the payload that load() reads.

        Raises:
            MissingDataset: if there is no version.
        """
        try:
            return Path(self._get_load_path())
        except VersionNotFoundError as error:
            raise self._missing() from error

    def load(self) -> Loaded | None:
        """Load a version, the newest one by default, after checking it against its manifest.

        Returns:
            The data; None if no version exists and the dataset is nullable.

        Raises:
            MissingDataset: if no version exists, or its files are not those that were written.
        """
        if self.nullable and not self.exists():
            return None
        manifest, payload = self._checked_manifest()
        problem = manifests.damage(manifest, payload)
        if problem:
            raise self._damaged(problem, payload)
        return self._read(payload)

    def save(self, data: Saved) -> None:
        """Save a new version: after this returns it is complete on the disk; before, it does not exist."""
        target = Path(self._get_save_path()).parent
        with atomic_folder(target) as folder:
            payload = folder / self._filepath.name
            self._write(data, payload)
            manifest = manifests.describe(
                payload,
                dataset=self.name,
                workspace=self.workspace,
                stage=self.stage,
                parameters=self._parameters_sha256,
                **self._provenance.model_dump(),
            )
            manifests.write_manifest(manifest, folder)
        self._remove_old()

    def _remove_old(self) -> None:
        if self.keep is not None:
            complete = sorted(file.parent for file in self.entry.glob(f"[!.]*/{manifests.MANIFEST_NAME}"))
            for version in complete[: -self.keep]:
                remove_folder(version)

    def _exists(self) -> bool:
        return not self._pinned_absent and _is_complete(str(self._get_load_path()))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version, "nullable": self.nullable}

    def _checked_manifest(self) -> tuple[Manifest, Path]:
        payload = self.payload()
        if not payload.parent.is_dir():
            raise self._missing()
        manifest = manifests.read_manifest(payload.parent)
        if manifest is None:
            raise self._damaged("its manifest.json is missing or not readable", payload)
        return manifest, payload

    def _missing(self) -> MissingDataset:
        wanted = f"version {self._versions.load} of " if self._versions.load else ""
        return MissingDataset(
            f"There is no {wanted}{self._title}.", str(self._filepath), f"Write it with: {self.command}"
        )

    def _damaged(self, problem: str, payload: Path) -> MissingDataset:
        return MissingDataset(
            f"The saved {self._title} is damaged: {problem}.",
            str(payload.parent),
            f"Remove that folder to fall back to the version before it, or write it again: {self.command}",
        )

    @property
    def _title(self) -> str:
        return f"{self.name!r} in workspace {self.workspace!r}" if self.workspace else repr(self.name)


# Kedro 1.7 forgets this mark on versioned datasets, and would wrap save() once more for each subclass,
# drawing a new version each time.
vars(ArtefactDataset.save)["__savewrapped__"] = True


def _is_complete(payload: str) -> bool:
    path = Path(payload)
    return path.exists() and (path.parent / manifests.MANIFEST_NAME).is_file()
