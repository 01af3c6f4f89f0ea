"""`prismrec batch`: recommendations and kept interests for a parquet file of users."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from prismrec.commands import frame

EXAMPLES = """
\b
Examples:
  prismrec batch --users users.parquet --out nightly                 the workspace's latest bundle
  prismrec batch --users users.parquet --out nightly --env ml1m -k 100
  prismrec batch --users users.parquet --out nightly --model gemirec --interests 16
  prismrec batch --users users.parquet --out nightly --redo          … after a new bundle
\b
One row a user: user_id, history (list of item ids, oldest first) and, where known,
timestamps (list of seconds). The results, read with polars:
  pl.read_parquet("nightly/part-*/recommendations.parquet")
  pl.read_parquet("nightly/part-*/interests.parquet")
"""


@click.command(epilog=EXAMPLES, short_help="Recommend for a parquet file of users.")
@click.option("--users", type=click.Path(path_type=Path), required=True, help="Parquet file, one row a user.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
@click.option("-k", "--k", type=click.IntRange(1), default=50, show_default=True, help="Items of each user.")
@click.option(
    "--interests", type=click.IntRange(1), default=8, show_default=True, help="Strongest interests kept of each user."
)
@click.option("--model", help="A model of the bundle; its default otherwise.")
@click.option(
    "--redo",
    is_flag=True,
    help="Make parts anew that another bundle, input or option made; remove those beyond the input.",
)
@frame.bundle_option
@frame.env_option
@frame.traceback_option
@frame.friendly
def batch(
    users: Path, out: Path, k: int, interests: int, model: str | None, redo: bool, bundle: Path | None, env: str | None
) -> None:
    """Write recommendations and the strongest interests of every user of a parquet file.

    Works through parts, each of which appears whole or not at all: the same command continues a job that was stopped,
    with the same result. Memory does not grow with the number of users.
    """
    from tqdm import tqdm

    from prismrec.serving.batch import BatchJob, run
    from prismrec.serving.users_file import UsersFile

    total = UsersFile(users).num_users
    job = BatchJob(users, out, frame.bundle_folder(bundle, env), k, interests, model)
    with tqdm(total=total, unit=" users", disable=not sys.stderr.isatty(), leave=False) as bar:
        manifest = run(job, bar.update, redo)
    click.echo(
        f"{manifest['num_users']:,} users, {k} items each, by {manifest['model']} of bundle {manifest['bundle']}\n{out}"
    )
