"""The record of one stage's run: `manifest.json`, deterministic, and `run.json`, what differs each time.

`<workspace>/08_reporting/manifests/<stage>/<version>/` holds both, written at once when the stage's last
node is done. The manifest says what was computed (content hashes of inputs and outputs, parameters, seed,
code, libraries, threads, metrics); run.json says what it cost (seconds, memory, host). That the record is there also
settles what the stage wrote: other stages read nothing newer (`prismrec.kedro_datasets.base`).
"""

import ctypes
import json
import os
import platform
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import prismrec
from prismrec.artifacts.atomic import atomic_folder
from prismrec.artifacts.model_folder import dump_json

LIBRARIES = (
    "accelerate",
    "bentoml",
    "faiss-cpu",
    "great-expectations",
    "kedro",
    "numpy",
    "pandas",
    "peft",
    "polars",
    "pyarrow",
    "pydantic",
    "safetensors",
    "torch",
    "transformers",
)
RECORDS = Path("08_reporting") / "manifests"  # within a workspace
THREAD_VARIABLES = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")


_COSTS: dict[str, Any] = {}


def note_cost(name: str, figures: Mapping[str, Any]) -> None:
    """Keep figures of what a part of the running stage cost, for its run.json; like memory, one of the process.

    Args:
        name: what they are of, such as a training.
        figures: JSON data that differs from run to run and so has no place in an artefact.
    """
    _COSTS[name] = dict(figures)


def take_costs() -> dict[str, Any]:
    """Return the figures noted since the last call."""
    taken = dict(_COSTS)
    _COSTS.clear()
    return taken


def write_record(folder: Path, manifest: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Write both files of a stage's record, together or not at all.

    Args:
        folder: the record's own folder, which must not exist yet.
        manifest: the deterministic facts; JSON data.
        run: the volatile ones; JSON data.
    """
    with atomic_folder(folder) as temporary:
        (temporary / "manifest.json").write_text(dump_json(dict(manifest)), encoding="utf-8")
        (temporary / "run.json").write_text(dump_json(dict(run)), encoding="utf-8")


def last_record(records: Path, stage: str) -> str | None:
    """Return the version of the newest record of a stage: of its last run that ended. None without one.

    Args:
        records: the workspace's folder of records.
    """
    return max((path.parent.name for path in (records / stage).glob("[!.]*/run.json")), default=None)


class StageCost(NamedTuple):
    """What a stage cost: seconds, peak memory in MB, and the seconds of each of its nodes."""

    seconds: float
    peak_mb: float
    nodes: dict[str, float]


def runs_of(workspace: Path, stage: str) -> list[dict[str, Any]]:
    """Return the `run.json` of every run of a stage, oldest first; none where it never ran."""
    found = sorted((workspace / RECORDS / stage).glob("[!.]*/run.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def stage_cost(runs: Sequence[Mapping[str, Any]]) -> StageCost:
    """Return the cost of a stage's latest run, and of nodes that it left out when they last ran.

    Args:
        runs: the stage's `run.json`s, oldest first; at least one. Old ones state no nodes and add none.

    Returns:
        The sum of the seconds, and the largest peak of the runs that were counted.
    """
    *earlier, last = runs
    nodes, seconds, peak = dict(last.get("node_seconds", {})), last["seconds"], last["peak_rss_mb"]
    for run in reversed(earlier if nodes else []):
        missing = {node: spent for node, spent in run.get("node_seconds", {}).items() if node not in nodes}
        if missing:
            nodes |= missing
            seconds, peak = seconds + sum(missing.values()), max(peak, run["peak_rss_mb"])
    return StageCost(seconds, peak, nodes)


def code_version(project: Path) -> dict[str, Any]:
    """Return the package's version and the git commit it runs from.

    Returns:
        {"version", "commit", "changed"}: commit is None outside of git, and changed says whether
        tracked files differ from it.
    """
    commit = _git(project, "rev-parse", "HEAD")
    changed = bool(commit and _git(project, "status", "--porcelain", "--untracked-files=no"))
    return {"version": prismrec.__version__, "commit": commit or None, "changed": changed}


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def threads() -> dict[str, str]:
    """Return the thread counts that results depend on, as set in the environment."""
    return {name: os.environ.get(name, "unset") for name in THREAD_VARIABLES}


def host() -> dict[str, Any]:
    """Return what machine this is: name, platform, cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"host": socket.gethostname(), "platform": platform.platform(), "cores": cores}


def reset_peak_memory() -> bool:
    """Let the kernel count this process's peak memory anew; False where it cannot (not Linux).

    What earlier stages have freed is given back to the system first (glibc), or it would count as this stage's.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_memory_mb() -> float:
    """Return the peak resident memory in MB since the last reset, or since the start where none works."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found, "Linux always states VmHWM"
    return int(found.group(1)) * 1024 / 1e6


def _git(project: Path, *arguments: str) -> str:
    command = ["git", "-C", str(project), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
