"""`prismrec interests`: the interests of a workspace's latest dictionary, in words."""

import click

from prismrec.commands import frame
from prismrec.errors import MissingArtefact

EXAMPLES = """
\b
Examples:
  prismrec interests                     all interests of the embedded demo, the most used first
  prismrec interests --env ml1m --top 20
"""


@click.command(epilog=EXAMPLES, short_help="Print the interests of the latest dictionary.")
@frame.env_option
@click.option("--top", "-n", type=click.IntRange(1), default=None, help="How many; all by default.")
@frame.traceback_option
@frame.friendly
def interests(env: str | None, top: int | None) -> None:
    """Print the interests of a workspace's latest dictionary: id, name, items, share of events, top titles."""
    dataset = frame.catalog(env)["interest_table"]
    if not dataset.exists():
        from prismrec.artifacts.lineage import stage_command

        raise MissingArtefact(
            f"There is no interest dictionary yet in workspace {dataset.workspace!r}.",
            mend=f"Run the stages first: {stage_command([], env or '')}",
        )
    from prismrec.data.interest_table import as_table

    table = dataset.load()
    click.echo(as_table(table["interests"], table["dictionary"], top))
