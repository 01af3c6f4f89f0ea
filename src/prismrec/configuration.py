"""Checks of the configuration before anything runs: environment, pipeline names, globals, parameters.

Kedro checks typed parameters too, but joins pydantic's errors into one text. Our choice: check the same
values against the same models first, and name the key, the value, what is allowed, what was probably
meant, and the file to mend.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from prismrec.errors import ParameterError
from prismrec.parameters import stage_model
from prismrec.pipeline_registry import DEFAULT, FINAL_FIT, STAGES

BASE = "base"
LOCAL = "local"


@dataclass(frozen=True)
class Configuration:
    """Where configuration comes from.

    Args:
        conf: the folder of all environments.
        environment: the run's environment.
        runtime: values given on the command line with --params.
    """

    conf: Path
    environment: str = LOCAL
    runtime: Mapping[str, Any] | None = None

    def file_setting(self, kind: str, key: Sequence[str]) -> str:
        """Name the file that sets a key, the one that wins if several do; else the stage's base file.

        Args:
            kind: "parameters" or "globals".
            key: the key's path, outermost first.
        """
        if kind == "parameters" and _holds(self.runtime or {}, key):
            return "--params on the command line"
        for environment in (self.environment, BASE):
            for file in sorted((self.conf / environment).glob(f"{kind}*.yml")):
                if _holds(read_yaml(file), key):
                    return self._shown(file)
        # A key that is missing altogether belongs where its parent is.
        return self.file_setting(kind, key[:-1]) if len(key) > 1 else self._shown(self.conf / BASE)

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.conf.parent).as_posix()


def read_yaml(file: Path) -> dict[str, Any]:
    """Return a YAML file's mapping, interpolations unresolved; empty if the file is."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict):
        raise ParameterError("This file has to hold a mapping of keys to values.", str(file), "Mend it.")
    return content


def environments(conf: Path) -> list[str]:
    """Return the names of the environments in a configuration folder."""
    return sorted(path.name for path in conf.iterdir() if path.is_dir() and not path.name.startswith("."))


def check_environment(conf: Path, environment: str) -> None:
    """Check that an environment exists.

    Raises:
        ParameterError: if it does not; lists those that do.
    """
    known = environments(conf)
    if environment not in known:
        raise ParameterError(
            f"There is no environment {environment!r}.{suggestion(environment, known)}",
            f"{conf} holds: {', '.join(known)}",
            f"Choose one of them, or make a folder {conf.name}/{environment}/ with what differs from base.",
        )


def check_pipelines(names: Iterable[str]) -> None:
    """Check that pipelines exist.

    Raises:
        ParameterError: at the first that does not; lists those that do, in order.
    """
    for name in names:
        if name not in (*STAGES, DEFAULT, FINAL_FIT):
            raise ParameterError(
                f"There is no pipeline {name!r}.{suggestion(name, (*STAGES, FINAL_FIT))}",
                "--pipelines",
                f"The stages, in order: {', '.join(STAGES)}; all of them again: {FINAL_FIT}",
            )


def check_selection(option: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Check that what an option names is part of the pipelines to run.

    Args:
        option: the option, for the message.
        names: the nodes or datasets it names.
        known: those of the pipelines to run.

    Raises:
        ParameterError: at the first name that is unknown.
    """
    choices = sorted(known)
    for name in names:
        if name not in choices:
            raise ParameterError(
                f"The pipelines to run have no {name!r}.{suggestion(name, choices)}",
                option,
                f"Choose from: {', '.join(choices)}",
            )


def check_globals(configuration: Configuration) -> None:
    """Check that the environment overrides only globals that base has.

    Raises:
        ParameterError: at the first unknown key.
    """
    known = read_yaml(configuration.conf / BASE / "globals.yml")
    override = configuration.conf / configuration.environment / "globals.yml"
    for key in read_yaml(override) if override.is_file() else {}:
        if key not in known:
            raise ParameterError(
                f"There is no global {key!r}.{suggestion(key, known)}",
                configuration.file_setting("globals", [key]),
                f"The globals are: {', '.join(known)}",
            )


def check_parameters(parameters: Mapping[str, Any], configuration: Configuration) -> None:
    """Check all stages' parameters against their models.

    Args:
        parameters: merged and resolved, as Kedro gives them to the nodes.
        configuration: where they come from, to name the file to mend.

    Raises:
        ParameterError: naming everything that is wrong with the first stage at fault.
    """
    for stage, values in parameters.items():
        if stage not in STAGES:
            raise ParameterError(
                f"Parameters are given for {stage!r}, which is no stage.{suggestion(stage, STAGES)}",
                configuration.file_setting("parameters", [stage]),
                f"The stages are: {', '.join(STAGES)}",
            )
        model = stage_model(stage)
        try:
            model.model_validate(values)
        except ValidationError as error:
            problems = [_problem(stage, model, dict(e), configuration) for e in error.errors()]
            raise ParameterError(
                "\n".join(what for what, _, _ in problems),
                ", ".join(dict.fromkeys(where for _, where, _ in problems)),
                " ".join(dict.fromkeys(mend for _, _, mend in problems)),
            ) from error


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `name`, or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _problem(
    stage: str, model: type[BaseModel], error: dict[str, Any], configuration: Configuration
) -> tuple[str, str, str]:
    path = [str(part) for part in error["loc"]]
    key = ".".join([stage, *path])
    where = configuration.file_setting("parameters", [stage, *path])
    owner = _model_at(model, path[:-1])
    fields = owner.model_fields if owner else {}
    if error["type"] == "extra_forbidden":
        what = f"There is no parameter {key!r}.{suggestion(path[-1], fields)}"
        return what, where, f"Known here: {', '.join(fields)}."
    if error["type"] == "missing":
        return f"The parameter {key!r} is missing.", where, f"Add it. {_meaning(key, path, fields)}"
    allowed = error["msg"][0].lower() + error["msg"][1:]
    what = f"The parameter {key!r} cannot be {error['input']!r}: {allowed}."
    return what, where, f"Change the value. {_meaning(key, path, fields)}".strip()


def _meaning(key: str, path: Sequence[str], fields: Mapping[str, Any]) -> str:
    known = fields.get(path[-1]) if path else None
    return f"{key}: {known.description}" if known is not None and known.description else ""


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """Follow a key's path into nested models; None where it leaves them (unions, lists)."""
    current: Any = model
    for part in path:
        known = current.model_fields.get(part)
        current = known.annotation if known is not None else None
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return None
    found: type[BaseModel] = current
    return found


def _holds(mapping: Any, key: Sequence[str]) -> bool:
    for part in key:
        if not isinstance(mapping, Mapping) or part not in mapping:
            return False
        mapping = mapping[part]
    return True
