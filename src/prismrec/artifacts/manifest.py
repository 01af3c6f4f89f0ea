"""The manifest beside every saved dataset: what it is, what it was made from, and its checksums.

Deterministic by design: no clock, no host, no Kedro version (a timestamp), so that two runs with the same
inputs, parameters and seed write the same bytes. Identity is the content's hash: saving the same content
again leaves everything made from it valid.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prismrec.artifacts.atomic import files_of, sha256_file, sha256_folder
from prismrec.artifacts.model_folder import dump_json

MANIFEST_NAME = "manifest.json"
PREVIOUS_PREFIX = "previous_"


class Provenance(BaseModel):
    """What something was made from: content hashes by dataset name.

    `ancestors` are all datasets upstream. `previous` are the `previous_*` inputs that fed back from an
    earlier run: recorded, but not followed, since they were rightly made from older versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ancestors: dict[str, str] = Field(default_factory=dict)
    previous: dict[str, str] = Field(default_factory=dict)


class Manifest(Provenance):
    """One version of one dataset.

    `files` maps the payload's file names, relative to the version folder, to their SHA-256;
    `sha256` is the payload's as a whole and `parameters` that of the stage's parameters.
    """

    dataset: str
    workspace: str
    stage: str
    sha256: str
    files: dict[str, str]
    parameters: str = ""


def describe(payload: Path, **facts: Any) -> Manifest:
    """Return the manifest of a payload, a file or a folder, that lies in its version folder.

    Args:
        payload: the written payload.
        facts: the manifest's other fields.
    """
    version_folder = payload.parent
    files = {file.relative_to(version_folder).as_posix(): sha256_file(file) for file in files_of(payload)}
    sha256 = sha256_folder(payload) if payload.is_dir() else sha256_file(payload)
    return Manifest(sha256=sha256, files=files, **facts)


def damage(manifest: Manifest, payload: Path) -> str | None:
    """Say what is wrong with a payload, compared with its manifest, or return None.

    Args:
        manifest: what was written.
        payload: what lies there now.
    """
    version_folder = payload.parent
    for name, sha256 in manifest.files.items():
        file = version_folder / name
        if not file.is_file():
            return f"its file {name} is missing"
        if sha256_file(file) != sha256:
            return f"its file {name} was changed or cut short after it was written"
    strangers = [f.relative_to(version_folder).as_posix() for f in files_of(payload)]
    added = sorted(set(strangers) - set(manifest.files))
    return f"it holds a file that was not written with it: {added[0]}" if added else None


def write_manifest(manifest: Manifest, version_folder: Path) -> None:
    """Write `manifest.json` into a version folder, with the same bytes for the same manifest."""
    text = dump_json(manifest.model_dump(mode="json"))
    (version_folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(version_folder: Path) -> Manifest | None:
    """Return a version's manifest, or None if it cannot be read."""
    try:
        return Manifest.model_validate_json((version_folder / MANIFEST_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def sha256_parameters(parameters: Mapping[str, Any]) -> str:
    """Return the SHA-256 of parameters as canonical JSON, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
