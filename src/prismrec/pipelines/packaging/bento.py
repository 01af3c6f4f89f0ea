"""From a bundle to a Bento: BentoML's model store, and `bentofile.yaml` of the project's root.

Tags are content hashes, our choice: a model's is its bundle's version, a Bento's adds the code that is
packed with it. BentoML would give every build a new random tag, and the stores would grow with each run.
"""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import prismrec
from prismrec.errors import UserError

BENTOFILE = "bentofile.yaml"
NAME = "prismrec"
CODE_LENGTH = 8


def project_folder() -> Path:
    """Return the project's root, from where Kedro may or may not have been started.

    Raises:
        UserError: prismrec is installed without its project.
    """
    folder = Path(prismrec.__file__).parents[2]
    if not (folder / BENTOFILE).is_file():
        raise UserError(
            f"There is no {BENTOFILE}: a Bento is built from the project's folder.",
            str(folder),
            "Clone the project and install it with: pip install -e .",
        )
    return folder


def store_and_build(bundle: Path, project: Path) -> dict[str, str]:
    """Store a bundle and build its Bento, each only if it is not there yet.

    Changes the process it runs in (working directory, import path): call it in one of its own.

    Raises:
        UserError: the bundle is damaged, or BentoML refuses to build.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    from bentoml.exceptions import BentoMLException

    try:
        model = _store(bundle)
        return {"model": model, "bento": _build(model, project)}
    except BentoMLException as error:
        raise UserError(f"BentoML cannot build the Bento: {error}", str(project / BENTOFILE)) from error


def _store(bundle: Path) -> str:
    import bentoml
    from bentoml.exceptions import NotFound

    from prismrec.artifacts.bundle import read_bundle
    from prismrec.serving.service import BUNDLE_FOLDER

    tag = f"{NAME}:{read_bundle(bundle).version}"
    if not _is_stored_whole(tag):
        with contextlib.suppress(NotFound):
            bentoml.models.delete(tag)  # what a killed run left
        with bentoml.models.create(tag) as stored:
            shutil.copytree(bundle, stored.path_of(BUNDLE_FOLDER))
    return tag


def _is_stored_whole(tag: str) -> bool:
    import bentoml
    from bentoml.exceptions import BentoMLException

    from prismrec.artifacts.bundle import read_bundle
    from prismrec.serving.service import BUNDLE_FOLDER

    try:
        read_bundle(Path(bentoml.models.get(tag).path_of(BUNDLE_FOLDER)))
    except (BentoMLException, UserError):
        return False
    return True


def _build(model: str, project: Path) -> str:
    import bentoml
    import yaml
    from bentoml.exceptions import NotFound

    from prismrec.serving.service import BUNDLE_ALIAS

    options: dict[str, Any] = yaml.safe_load((project / BENTOFILE).read_text(encoding="utf-8"))
    # By its own tag: the newest model in the store may be another workspace's.
    options["models"] = [{"tag": model, "alias": BUNDLE_ALIAS}]
    version = f"{model.partition(':')[2]}-{_code_hash(project, options['include'])}"
    tag = f"{NAME}:{version}"
    if _latest() != tag:
        with contextlib.suppress(NotFound):
            bentoml.delete(tag)  # built again, so that it is the latest one
        bentoml.build(**options, version=version, build_ctx=str(project))
    return tag


def _latest() -> str | None:
    import bentoml
    from bentoml.exceptions import BentoMLException

    try:
        return str(bentoml.get(f"{NAME}:latest").tag)
    except BentoMLException:  # there is none, or a killed run left half of one
        return None


def _code_hash(project: Path, include: list[str]) -> str:
    files = {project / BENTOFILE, *(file for pattern in include for file in project.glob(pattern))}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(project).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:CODE_LENGTH]
