"""`prismrec run`: Kedro's own run with all of its options, after a check of the names.

What the user can mend is printed as one message instead of a traceback; what nobody expected keeps its traceback.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from prismrec.commands import frame

# Options of Kedro's run whose names we check, as a user types them.
NAMED_OPTIONS = {
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
    "node_names": "--nodes",
    "from_inputs": "--from-inputs",
    "to_outputs": "--to-outputs",
}

EXAMPLES = """
\b
Examples:
  kedro run                                  all eight stages on the embedded demo
  kedro run --env ml1m                       … on MovieLens-1M
  kedro run --pipelines codebook             one stage, on what the earlier ones wrote
  kedro run --params codebook.layers=3       change a parameter for this run
  kedro run --pipelines final_fit            after a whole run: all stages again, trained on its validation events too
  kedro run --only-missing-outputs           skip what has outputs already, whatever made them
\b
The stages, in order: data_validation, sequence_building, lightweight_encoder, codebook,
llm_recommender, interest_dictionary, evaluation, packaging.
"""


class RunCommand(click.Command):
    """Kedro's run command with our checks; its options are read from Kedro when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return Kedro's options and ours; none without Kedro, so that --help still works."""
        kedro_run = frame.kedro_run()
        return [*(kedro_run.params if kedro_run else ()), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; without Kedro its options are unknown, and the command says so instead of the parser."""
        known = args if frame.kedro_run() else [arg for arg in args if arg in ctx.help_option_names]
        return super().parse_args(ctx, known)


@click.command(cls=RunCommand, epilog=EXAMPLES, short_help="Run stages: all eight, or those named.")
@frame.traceback_option
@frame.friendly
def run(**options: Any) -> Any:
    """Run stages: all eight, or those named with --pipelines.

    Each reads what the earlier ones wrote to the workspace of the environment, and writes new versions.
    """
    kedro_run = frame.kedro_run()
    if kedro_run is None:
        raise frame.no_kedro("run stages")
    from prismrec.configuration import check_environment

    project = frame.project()  # whatever the configuration's place: the pipelines' package is known from here on
    conf = Path(options["conf_source"] or project / "conf")
    environment = options["env"] or os.environ.get("KEDRO_ENV")
    if environment and conf.is_dir():
        check_environment(conf, environment)
    _check_pipelines(options)
    assert kedro_run.callback is not None
    return kedro_run.callback(**options)


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
