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
DATA_ROOT_VARIABLE = "PRISMREC_DATA_ROOT"  # read by conf/base/globals.yml too
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

DOWNLOAD_EXAMPLES = """
\b
Examples:
  prismrec download --list               what there is, and how large it is
  prismrec download ml-1m                MovieLens-1M, into the project's data_root
  prismrec download ml-1m --to ~/data    … into ~/data/ml-1m
  prismrec download ml-1m --yes          … without the question, as in a script
"""


FORGET_EXAMPLES = """
\b
Examples:
  prismrec forget --user 4711                 leave user 4711 out from the next run on
  prismrec forget --user 4711 --user ada -e ml1m
  kedro run                                   write the tables without them
  prismrec forget --purge                     then delete older versions that still hold them
"""

EXAMPLES = """
\b
Examples:
  prismrec run                    run all eight stages on the embedded demo
  prismrec report                 print how the models did
  prismrec download ml-1m         fetch MovieLens-1M
  prismrec run --env ml1m         the same stages on it
  prismrec report --env ml1m
"""

REPORT_EXAMPLES = """
\b
Examples:
  prismrec report                   the embedded demo
  prismrec report --env ml1m        MovieLens-1M
  prismrec report --json | jq '.models.hymirec'
"""

STAGES_EXAMPLES = """
\b
Examples:
  prismrec stages                   the embedded demo
  prismrec stages --env ml1m        MovieLens-1M
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.version_option(prismrec.__version__, prog_name="prismrec")
def cli() -> None:
    """Recommend by disentangled interests: HyMiRec and GemiRec, from raw logs to a served model."""


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

    project = _project()  # whatever the configuration's place: the pipelines' package is known from here on
    conf = Path(options["conf_source"] or project / "conf")
    environment = options["env"] or os.environ.get("KEDRO_ENV")
    if environment and conf.is_dir():
        check_environment(conf, environment)
    _check_pipelines(options)
    assert kedro_run.callback is not None
    return kedro_run.callback(**options)


@cli.command(epilog=REPORT_EXAMPLES, short_help="Print how the models did, and the promotion verdict.")
@env_option
@click.option("--json", "as_json", is_flag=True, help="Print the metrics file as it is.")
@traceback_option
@friendly
def report(env: str | None, as_json: bool) -> None:
    """Print how the models did in a workspace's latest evaluation, by which rules, and whether it was promoted."""
    if _kedro_run() is None:
        raise _no_kedro("read the workspace")
    text = _latest_metrics(_project(), env)
    if not as_json:
        from prismrec.evaluation.report import as_table

        text = as_table(json.loads(text))
    click.echo(text.rstrip("\n"))


@cli.command(epilog=STAGES_EXAMPLES, short_help="Print time and peak memory of every stage's latest run.")
@env_option
@traceback_option
@friendly
def stages(env: str | None) -> None:
    """Print time and peak memory of every stage's latest run in a workspace."""
    if _kedro_run() is None:
        raise _no_kedro("read the workspace")
    runs = _latest_runs(_project(), env)
    lines = [f"{'stage':<20} {'seconds':>8} {'peak MB':>8}  started (UTC)"]
    for stage, run in runs.items():
        lines.append(f"{stage:<20} {run['seconds']:>8.1f} {run['peak_rss_mb']:>8.0f}  {run['started'][:19]}")
    lines.append(f"{'all':<20} {sum(r['seconds'] for r in runs.values()):>8.1f}")
    host = next(iter(runs.values()))
    click.echo("\n".join([*lines, "", f"{host['cores']} cores, {host['platform']}"]))


@cli.command(epilog=DOWNLOAD_EXAMPLES, short_help="Download a public data set, after showing its terms.")
@click.argument("name", required=False)
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for data sets; the project's data_root by default.",
)
@click.option("--yes", "-y", is_flag=True, help="Agree to the terms, which are shown all the same.")
@click.option("--list", "listing", is_flag=True, help="List the data sets and end.")
@traceback_option
@friendly
def download(name: str | None, folder: Path | None, yes: bool, listing: bool) -> None:
    """Download a public data set from its owner, check it, and unpack it into a folder of its name.

    The terms come first: nothing is asked of the server before you agree to them. A download that was cut is
    continued by the same command; a data set that is there already is left as it is. Kedro is not needed.
    """
    from prismrec.data import datasets
    from prismrec.data.download import download as fetch

    registry = datasets.read_registry()
    if listing:
        click.echo(datasets.listing(registry))
        return
    if name is None:
        raise UserError("Which data set?", mend="prismrec download --list shows them.")
    data_set = registry.find(name)
    root = folder or _data_root()
    fetch(name, root, registry, agree=lambda: _agree(yes), say=click.echo, bar=sys.stderr.isatty())
    click.echo(datasets.next_step(name, data_set, root.absolute() if folder else None))


@cli.command(epilog=FORGET_EXAMPLES, short_help="Leave a user out of every table from the next run on.")
@click.option("--user", "users", multiple=True, help="The user's id, as the source gives it; may be repeated.")
@click.option("--purge", is_flag=True, help="Delete older versions of tables that hold users to forget.")
@env_option
@traceback_option
@friendly
def forget(users: tuple[str, ...], purge: bool, env: str | None) -> None:
    """Leave a user out of every table, and of later stages' histories, from the next run on.

    The request stays in the workspace, with the id as it is, since every later run has to find it in the source's
    files. The files themselves are yours and are not touched. Models that were trained before know nobody's id.
    """
    if _kedro_run() is None:
        raise _no_kedro("read the workspace")
    if bool(users) == purge:
        raise UserError("Who is to be forgotten?", mend="Give --user ID, or --purge after the next run.")
    if not all(user.strip() for user in users):
        raise UserError("An empty id is no user's.", "--user", "Give the id as the source gives it.")
    if purge:
        _purge(_project(), env)
    else:
        _ask_to_forget(_project(), env, users)


def main() -> None:
    """Run the `prismrec` command."""
    cli(prog_name="prismrec")


def _agree(yes: bool) -> None:
    """Ask for agreement to what was just shown, on a terminal; elsewhere it has to be given beforehand."""
    if yes:
        return
    if not _on_terminal():
        raise UserError(
            "Nobody can be asked here whether the terms above are agreed to.",
            "not a terminal",
            "Read them, then add --yes.",
        )
    if not click.confirm("Do you agree to these terms?"):
        raise UserError("Nothing was downloaded, as the terms were not agreed to.")


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _data_root() -> Path:
    """Return where the project looks for raw data sets.

    Raises:
        UserError: neither the environment nor a project says it.
    """
    if root := os.environ.get(DATA_ROOT_VARIABLE):
        return Path(root)
    mend = f"Say --to FOLDER, or set {DATA_ROOT_VARIABLE}, or change into the project's folder."
    if _kedro_run() is None:
        raise UserError("Which folder to download to? Without Kedro, no project can be read.", mend=mend)
    from kedro.config import OmegaConfigLoader

    from prismrec.settings import CONFIG_LOADER_ARGS

    try:
        project = _project()
    except UserError as error:
        raise UserError(error.what, error.where, mend) from error
    configured = OmegaConfigLoader(conf_source=str(project / "conf"), **CONFIG_LOADER_ARGS)["globals"]
    return Path(project, configured["data_root"])


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


def _ask_to_forget(project: Path, environment: str | None, users: tuple[str, ...]) -> None:
    """Record the request, and say what happens next and what does not."""
    from prismrec.artifacts.lineage import stage_command
    from prismrec.data.forget import count_rows, extended

    catalog = _catalog(project, environment)
    record, tables = catalog["forgotten_users"], catalog["raw_interactions"]
    record.save(extended(record.load(), users))
    if tables.exists():
        rows = count_rows(tables.load(), users)
        for user in dict.fromkeys(users):
            click.echo(
                f"{user}: {rows[user]:,} rows in the newest raw table."
                if user in rows
                else f"{user}: not in the newest raw table. Is the id written as the source gives it?"
            )
    again, of_environment = stage_command([], environment or ""), f" --env {environment}" if environment else ""
    click.echo(
        f"Recorded in workspace {tables.workspace!r}: from the next run on no table holds them.\n"
        f"  next:   {again}\n"
        f"  then:   prismrec forget --purge{of_environment}   (deletes older versions that hold them)\n"
        "  yours:  the source's own files, and copies of this workspace elsewhere."
    )


def _purge(project: Path, environment: str | None) -> None:
    from prismrec.artifacts.lineage import stage_command
    from prismrec.data.forget import HOLD_EVENTS, HOLD_IDS, purge, requested

    catalog = _catalog(project, environment)
    users = requested(catalog["forgotten_users"].load())
    if not users:
        workspace = catalog["forgotten_users"].workspace
        raise UserError(f"Nobody is to be forgotten in workspace {workspace!r}.", mend="prismrec forget --user ID")
    entries = {name: catalog[name].entry for name in (*HOLD_IDS, *HOLD_EVENTS)}
    again = stage_command(["data_validation", "sequence_building"], environment or "")
    removed = purge(entries, users, again)
    for folder in removed:
        click.echo(f"deleted {folder}")
    click.echo(f"{len(removed)} older versions deleted; no table of the workspace holds a forgotten user.")


def _evaluation_metrics(project: Path, environment: str | None) -> Any:
    """Return the catalog entry of an environment's evaluation."""
    from prismrec.kedro_datasets import JsonDataset

    dataset = _catalog(project, environment)["evaluation_metrics"]
    assert isinstance(dataset, JsonDataset)
    return dataset


def _catalog(project: Path, environment: str | None) -> Any:
    """Return the catalog of an environment."""
    from kedro.framework.session import KedroSession

    from prismrec.configuration import check_environment

    if environment:
        check_environment(project / "conf", environment)
    return KedroSession.create(project, env=environment).load_context().catalog


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
