"""What all commands share: one message for what the user can mend, the common options, the project and its catalog.

Kedro is imported only where a command needs it: the core install, made for serving, has none.
"""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from prismrec.errors import UserError

TRACEBACK_VARIABLE = "PRISMREC_TRACEBACK"
# The loggers by which Kedro reports a failed node: an error with its text, and a hint how to resume.
FAILURE_LOGGERS = ("kedro.pipeline.node", "kedro.runner.sequential_runner", "kedro.runner.thread_runner")


def friendly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Print a `UserError` as one message on stderr and exit with 1; let every other error through."""

    @functools.wraps(function)
    def wrapped(*args: Any, traceback: bool, **options: Any) -> Any:
        try:
            with _quiet_failures(enabled=not traceback):
                return function(*args, **options)
        except Exception as error:
            mendable = user_error(error)
            if mendable is None or traceback:
                raise
            click.echo(f"{click.style('Error:', fg='red', bold=True)} {mendable}", err=True)
            sys.exit(1)

    return wrapped


def user_error(error: BaseException) -> UserError | None:
    """Return the `UserError` that an error is, or was raised from; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause


traceback_option = click.option(
    "--traceback",
    is_flag=True,
    envvar=TRACEBACK_VARIABLE,
    help=f"Show the Python traceback of every error; or set {TRACEBACK_VARIABLE}=1.",
)
env_option = click.option(
    "--env", "-e", default=None, envvar="KEDRO_ENV", help="Environment: a folder in conf/, e.g. ml1m."
)
bundle_option = click.option(
    "--bundle", type=click.Path(path_type=Path), help="Folder of a bundle; what the workspace packaged last by default."
)


def kedro_run() -> click.Command | None:
    """Return Kedro's run command, or None without Kedro."""
    try:
        from kedro.utils import find_kedro_project

        # Kedro looks for this file in the working directory only, and reads it while it is imported.
        logging_file = (find_kedro_project(Path.cwd()) or Path()) / "conf" / "logging.yml"
        if logging_file.is_file():
            os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(logging_file))
        from kedro.framework.cli.project import run
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "kedro":
            return None
        raise
    found: click.Command = run
    return found


def no_kedro(purpose: str) -> UserError:
    """The error of a command that needs Kedro where there is none."""
    return UserError(
        f"Kedro is not installed, which it takes to {purpose}.",
        "this install of prismrec has what serving needs",
        "pip install 'prismrec[pipelines]'",
    )


def project() -> Path:
    """Return the project's root, after making it known to Kedro.

    Raises:
        UserError: outside of a project.
    """
    from kedro.framework import project as known
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import find_kedro_project

    root = find_kedro_project(Path.cwd())
    if root is None:
        raise UserError(
            "There is no project here.",
            str(Path.cwd()),
            "Change into the folder that holds the project's pyproject.toml and conf/.",
        )
    if known.PACKAGE_NAME is None:
        bootstrap_project(root)
    return Path(root)


def catalog(environment: str | None) -> Any:
    """Return the catalog of an environment of the project.

    Raises:
        UserError: Kedro is not installed, there is no project here, or it has no such environment.
    """
    if kedro_run() is None:
        raise no_kedro("read the workspace")
    from kedro.framework.session import KedroSession

    from prismrec.configuration import check_environment

    root = project()
    if environment:
        check_environment(root / "conf", environment)
    return KedroSession.create(root, env=environment).load_context().catalog


def bundle_folder(given: Path | None, environment: str | None) -> Path:
    """Return the folder that was given, or that of the bundle which an environment's workspace packaged last.

    Raises:
        UserError: nothing has been packaged there, or there is no project here.
    """
    if given is not None:
        return given
    folder: Path = catalog(environment)["bundle"].load()
    return folder


@contextlib.contextmanager
def _quiet_failures(enabled: bool) -> Iterator[None]:
    """Keep Kedro from logging failures that we print ourselves as one message."""
    loggers = [logging.getLogger(name) for name in FAILURE_LOGGERS] if enabled else []
    for logger in loggers:
        logger.addFilter(_is_unexpected)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_unexpected)


def _is_unexpected(_: logging.LogRecord) -> bool:
    """Let a record through unless a `UserError` is being handled just now."""
    error = sys.exc_info()[1]
    return error is None or user_error(error) is None
