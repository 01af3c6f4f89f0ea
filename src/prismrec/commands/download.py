"""`prismrec download`: fetch a public data set, after its terms were agreed to."""

import os
import sys
from pathlib import Path

import click

from prismrec.commands import frame
from prismrec.errors import UserError

DATA_ROOT_VARIABLE = "PRISMREC_DATA_ROOT"  # read by conf/base/globals.yml too

EXAMPLES = """
\b
Examples:
  prismrec download --list               what there is, and how large it is
  prismrec download ml-1m                MovieLens-1M, into the project's data_root
  prismrec download ml-1m --to ~/data    … into ~/data/ml-1m
  prismrec download ml-1m --yes          … without the question, as in a script
"""


@click.command(epilog=EXAMPLES, short_help="Download a public data set, after showing its terms.")
@click.argument("name", required=False)
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for data sets; the project's data_root by default.",
)
@click.option("--yes", "-y", is_flag=True, help="Agree to the terms, which are shown all the same.")
@click.option("--list", "listing", is_flag=True, help="List the data sets and end.")
@frame.traceback_option
@frame.friendly
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
    if frame.kedro_run() is None:
        raise UserError("Which folder to download to? Without Kedro, no project can be read.", mend=mend)
    from kedro.config import OmegaConfigLoader

    from prismrec.settings import CONFIG_LOADER_ARGS

    try:
        project = frame.project()
    except UserError as error:
        raise UserError(error.what, error.where, mend) from error
    configured = OmegaConfigLoader(conf_source=str(project / "conf"), **CONFIG_LOADER_ARGS)["globals"]
    return Path(project, configured["data_root"])
