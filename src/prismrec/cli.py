"""The command line: `prismrec …`, and the same commands inside `kedro …`, which looks for `cli` here.

Each command is a module of `prismrec.commands`.
"""

import click

import prismrec
from prismrec.commands import batch, download, forget, interests, recommend, report, rollback, run

EXAMPLES = """
\b
Examples:
  prismrec run                    run all eight stages on the embedded demo
  prismrec report                 print how the models did
  prismrec download ml-1m         fetch MovieLens-1M
  prismrec run --env ml1m         the same stages on it
  prismrec report --env ml1m
  prismrec recommend --env ml1m --history "Toy Story (1995)"
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.version_option(prismrec.__version__, prog_name="prismrec")
def cli() -> None:
    """Recommend by disentangled interests: HyMiRec and GemiRec, from raw logs to a served model."""


for command in (
    run.run,
    report.report,
    report.stages,
    interests.interests,
    download.download,
    forget.forget,
    recommend.recommend,
    batch.batch,
    rollback.rollback,
):
    cli.add_command(command)


def main() -> None:
    """Run the `prismrec` command."""
    cli(prog_name="prismrec")
