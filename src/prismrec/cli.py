"""The command line: `prismrec …`, and the same commands inside `kedro …`.

`run` is Kedro's own run with all of its options: ours only checks names before Kedro starts, and prints an
error that the user can mend as one message instead of a traceback. What nobody expected keeps its traceback.
Kedro is imported only when a command needs it: the core install, made for serving, has none.
"""

import contextlib
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import prismrec
from prismrec.errors import MissingArtefact, UserError

TRACEBACK_VARIABLE = "PRISMREC_TRACEBACK"
# The loggers by which Kedro reports a failed node: an error with its text, and a hint how to resume.
FAILURE_LOGGERS = ("kedro.pipeline.node", "kedro.runner.sequential_runner", "kedro.runner.thread_runner")

# Options of Kedro's run whose names we check, as a user types them.
NAMED_OPTIONS = {
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
    "node_names": "--nodes",
    "from_inputs": "--from-inputs",
    "to_outputs": "--to-outputs",
}

RUN_EXAMPLES = """
\b
Examples:
  kedro run                                  all eight stages on the embedded demo
  kedro run --env ml1m                       … on MovieLens-1M
  kedro run --pipelines codebook             one stage, on what the earlier ones wrote
  kedro run --params codebook.layers=3       change a parameter for this run
  kedro run --only-missing-outputs           skip what has outputs already, whatever made them
\b
The stages, in order: data_validation, sequence_building, lightweight_encoder, codebook,
llm_recommender, interest_dictionary, evaluation, packaging.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(prismrec.__version__, prog_name="prismrec")
def cli() -> None:
    r"""Recommend by disentangled interests: HyMiRec and GemiRec, from raw logs to a served model.

    \b
    Examples:
      prismrec run                    run all eight stages on the embedded demo
      prismrec report                 print how the models did
      prismrec run --env ml1m         the same on MovieLens-1M
      prismrec report --env ml1m
    """


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


class RunCommand(click.Command):
    """Kedro's run command with our checks; its options are read from Kedro when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return Kedro's options and ours; none without Kedro, so that --help still works."""
        kedro_run = _kedro_run()
        return [*(kedro_run.params if kedro_run else ()), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; without Kedro its options are unknown, and the command says so instead of the parser."""
        known = args if _kedro_run() else [arg for arg in args if arg in ctx.help_option_names]
        return super().parse_args(ctx, known)


traceback_option = click.option(
    "--traceback",
    is_flag=True,
    envvar=TRACEBACK_VARIABLE,
    help=f"Show the Python traceback of every error; or set {TRACEBACK_VARIABLE}=1.",
)
env_option = click.option(
    "--env", "-e", default=None, envvar="KEDRO_ENV", help="Environment: a folder in conf/, e.g. ml1m."
)


@cli.command(cls=RunCommand, epilog=RUN_EXAMPLES, short_help="Run stages: all eight, or those named.")
@traceback_option
@friendly
def run(**options: Any) -> Any:
    """Run stages: all eight, or those named with --pipelines.

    Each reads what the earlier ones wrote to the workspace of the environment, and writes new versions.
    """
    kedro_run = _kedro_run()
    if kedro_run is None:
        raise _no_kedro("run stages")
    from prismrec.configuration import check_environment

    conf = Path(options["conf_source"] or _project() / "conf")
    environment = options["env"] or os.environ.get("KEDRO_ENV")
    if environment and conf.is_dir():
        check_environment(conf, environment)
    _check_pipelines(options)
    assert kedro_run.callback is not None
    return kedro_run.callback(**options)


@cli.command(short_help="Print how the models did, and the promotion verdict.")
@env_option
@click.option("--json", "as_json", is_flag=True, help="Print the metrics file as it is.")
@traceback_option
@friendly
def report(env: str | None, as_json: bool) -> None:
    r"""Print how the models did in a workspace's latest evaluation, by which rules, and whether it was promoted.

    \b
    Examples:
      prismrec report                   the embedded demo
      prismrec report --env ml1m        MovieLens-1M
      prismrec report --json | jq '.models.hymirec'
    """
    if _kedro_run() is None:
        raise _no_kedro("read the workspace")
    text = _latest_metrics(_project(), env)
    if not as_json:
        from prismrec.evaluation.report import as_table

        text = as_table(json.loads(text))
    click.echo(text.rstrip("\n"))


@cli.command(short_help="Print time and peak memory of every stage's latest run.")
@env_option
@traceback_option
@friendly
def stages(env: str | None) -> None:
    r"""Print time and peak memory of every stage's latest run in a workspace.

    \b
    Examples:
      prismrec stages                   the embedded demo
      prismrec stages --env ml1m        MovieLens-1M
    """
    if _kedro_run() is None:
        raise _no_kedro("read the workspace")
    runs = _latest_runs(_project(), env)
    lines = [f"{'stage':<20} {'seconds':>8} {'peak MB':>8}  started (UTC)"]
    for stage, run in runs.items():
        lines.append(f"{stage:<20} {run['seconds']:>8.1f} {run['peak_rss_mb']:>8.0f}  {run['started'][:19]}")
    lines.append(f"{'all':<20} {sum(r['seconds'] for r in runs.values()):>8.1f}")
    host = next(iter(runs.values()))
    click.echo("\n".join([*lines, "", f"{host['cores']} cores, {host['platform']}"]))


def main() -> None:
    """Run the `prismrec` command."""
    cli(prog_name="prismrec")


def _check_pipelines(options: Mapping[str, Any]) -> None:
    """Check the names of pipelines, nodes and datasets that the options of `run` give."""
    from kedro.pipeline import Pipeline

    from prismrec.configuration import check_pipelines, check_selection
    from prismrec.pipeline_registry import DEFAULT, register_pipelines

    names = [*options["pipelines"], *filter(None, [options["pipeline"]])]
    check_pipelines(names)
    registered = register_pipelines()
    chosen = sum((registered[name] for name in names or [DEFAULT]), start=Pipeline([]))
    for option in ("from_nodes", "to_nodes", "node_names"):
        check_selection(NAMED_OPTIONS[option], options[option], (node.name for node in chosen.nodes))
    for option in ("from_inputs", "to_outputs"):
        check_selection(NAMED_OPTIONS[option], options[option], chosen.datasets())


def _kedro_run() -> click.Command | None:
    """Return Kedro's run command, or None without Kedro."""
    try:
        from kedro.utils import find_kedro_project

        # Kedro looks for this file in the working directory only, and reads it while it is imported.
        logging_file = (find_kedro_project(Path.cwd()) or Path()) / "conf" / "logging.yml"
        if logging_file.is_file():
            os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(logging_file))
        from kedro.framework.cli.project import run as kedro_run
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "kedro":
            return None
        raise
    found: click.Command = kedro_run
    return found


def _no_kedro(purpose: str) -> UserError:
    return UserError(
        f"Kedro is not installed, which it takes to {purpose}.",
        "this install of prismrec has what serving needs",
        "pip install 'prismrec[pipelines]'",
    )


def _project() -> Path:
    """Return the project's root, after making it known to Kedro.

    Raises:
        UserError: outside of a project.
    """
    from kedro.framework import project
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import find_kedro_project

    root = find_kedro_project(Path.cwd())
    if root is None:
        raise UserError(
            "There is no project here.",
            str(Path.cwd()),
            "Change into the folder that holds the project's pyproject.toml and conf/.",
        )
    if project.PACKAGE_NAME is None:
        bootstrap_project(root)
    return Path(root)


def _evaluation_metrics(project: Path, environment: str | None) -> Any:
    """Return the catalog entry of an environment's evaluation."""
    from kedro.framework.session import KedroSession

    from prismrec.configuration import check_environment
    from prismrec.kedro_datasets import JsonDataset

    if environment:
        check_environment(project / "conf", environment)
    session = KedroSession.create(project, env=environment)
    dataset = session.load_context().catalog["evaluation_metrics"]
    assert isinstance(dataset, JsonDataset)
    return dataset


def _latest_metrics(project: Path, environment: str | None) -> str:
    dataset = _evaluation_metrics(project, environment)
    if not dataset.exists():
        raise _nothing("evaluated", dataset.workspace, environment)
    dataset.load()  # checks the file against its checksum
    text: str = dataset.payload().read_text(encoding="utf-8")
    return text


def _latest_runs(project: Path, environment: str | None) -> dict[str, dict[str, Any]]:
    """Return the newest `run.json` of every stage that has one."""
    from prismrec.artifacts import stage_record
    from prismrec.pipeline_registry import STAGES

    dataset = _evaluation_metrics(project, environment)
    records = dataset.entry.parents[1] / stage_record.RECORDS
    newest = {stage: max((records / stage).glob("[!.]*/run.json"), default=None) for stage in STAGES}
    runs = {stage: json.loads(path.read_text(encoding="utf-8")) for stage, path in newest.items() if path}
    if not runs:
        raise _nothing("run", dataset.workspace, environment)
    return runs


def _nothing(done: str, workspace: str, environment: str | None) -> MissingArtefact:
    from prismrec.artifacts.lineage import stage_command

    return MissingArtefact(
        f"Nothing has been {done} yet in workspace {workspace!r}.",
        mend=f"Run the stages first: {stage_command([], environment or '')}",
    )


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
