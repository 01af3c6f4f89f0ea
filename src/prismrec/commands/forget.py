"""`prismrec forget`: leave users out of every table from the next run on."""

import click

from prismrec.commands import frame
from prismrec.errors import UserError

EXAMPLES = """
\b
Examples:
  prismrec forget --user 4711                 leave user 4711 out from the next run on
  prismrec forget --user 4711 --user ada -e ml1m
  kedro run                                   write the tables without them
  prismrec forget --purge                     then delete older versions that still hold them
"""


@click.command(epilog=EXAMPLES, short_help="Leave a user out of every table from the next run on.")
@click.option("--user", "users", multiple=True, help="The user's id, as the source gives it; may be repeated.")
@click.option("--purge", is_flag=True, help="Delete older versions of tables that hold users to forget.")
@frame.env_option
@frame.traceback_option
@frame.friendly
def forget(users: tuple[str, ...], purge: bool, env: str | None) -> None:
    """Leave a user out of every table, and of later stages' histories, from the next run on.

    The request stays in the workspace, with the id as it is, since every later run has to find it in the source's
    files. The files themselves are yours and are not touched. Models that were trained before know nobody's id.
    """
    if bool(users) == purge:
        raise UserError("Who is to be forgotten?", mend="Give --user ID, or --purge after the next run.")
    if not all(user.strip() for user in users):
        raise UserError("An empty id is no user's.", "--user", "Give the id as the source gives it.")
    if purge:
        _purge(env)
    else:
        _ask_to_forget(env, users)


def _ask_to_forget(environment: str | None, users: tuple[str, ...]) -> None:
    """Record the request, and say what happens next and what does not."""
    from prismrec.artifacts.lineage import stage_command
    from prismrec.data.forget import count_rows, extended

    catalog = frame.catalog(environment)
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


def _purge(environment: str | None) -> None:
    from prismrec.artifacts.lineage import stage_command
    from prismrec.data.forget import HOLD_EVENTS, HOLD_IDS, purge, requested

    catalog = frame.catalog(environment)
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
