"""`prismrec report` and `prismrec stages`: what a workspace's latest runs say."""

import json
from typing import Any

import click

from prismrec.commands import frame
from prismrec.errors import MissingArtefact

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


@click.command(epilog=REPORT_EXAMPLES, short_help="Print how the models did, and the promotion verdict.")
@frame.env_option
@click.option("--json", "as_json", is_flag=True, help="Print the metrics file as it is.")
@frame.traceback_option
@frame.friendly
def report(env: str | None, as_json: bool) -> None:
    """Print how the models did in a workspace's latest evaluation, by which rules, and whether it was promoted."""
    text = latest_metrics(env)
    if not as_json:
        from prismrec.evaluation.report import as_table

        text = as_table(json.loads(text))
    click.echo(text.rstrip("\n"))


@click.command(epilog=STAGES_EXAMPLES, short_help="Print time and peak memory of every stage's latest run.")
@frame.env_option
@frame.traceback_option
@frame.friendly
def stages(env: str | None) -> None:
    """Print time and peak memory of every stage's latest run in a workspace."""
    runs = latest_runs(env)
    lines = [f"{'stage':<20} {'seconds':>8} {'peak MB':>8}  started (UTC)"]
    for stage, run in runs.items():
        lines.append(f"{stage:<20} {run['seconds']:>8.1f} {run['peak_rss_mb']:>8.0f}  {run['started'][:19]}")
    lines.append(f"{'all':<20} {sum(r['seconds'] for r in runs.values()):>8.1f}")
    host = next(iter(runs.values()))
    click.echo("\n".join([*lines, "", f"{host['cores']} cores, {host['platform']}"]))


def _evaluation_metrics(environment: str | None) -> Any:
    """Return the catalog entry of an environment's evaluation."""
    from prismrec.kedro_datasets import JsonDataset

    dataset = frame.catalog(environment)["evaluation_metrics"]
    assert isinstance(dataset, JsonDataset)
    return dataset


def latest_metrics(environment: str | None) -> str:
    """Return the JSON text of an environment's latest evaluation."""
    dataset = _evaluation_metrics(environment)
    if not dataset.exists():
        raise _nothing("evaluated", dataset.workspace, environment)
    dataset.load()  # checks the file against its checksum
    text: str = dataset.payload().read_text(encoding="utf-8")
    return text


def latest_runs(environment: str | None) -> dict[str, dict[str, Any]]:
    """Return the newest `run.json` of every stage that has one."""
    from prismrec.artifacts import stage_record
    from prismrec.pipeline_registry import STAGES

    dataset = _evaluation_metrics(environment)
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
