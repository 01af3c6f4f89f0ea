"""`prismrec rollback`: have running services go back to an earlier bundle of BentoML's model store, without a restart.

A file in BENTOML_HOME names the bundle (`prismrec.serving.switching`); every worker looks at it once a second, loads
and verifies the bundle while it goes on answering, and then swaps.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import click

from prismrec.commands import frame
from prismrec.errors import UserError

EXAMPLES = """
\b
Examples:
  prismrec rollback --list                     the bundles of the store, newest first
  prismrec rollback                            serve the one before
  prismrec rollback --to prismrec:0123abcd     serve this one
  prismrec rollback --undo                     serve what the services were started with
\b
BENTOML_HOME says which store, ~/bentoml by default.
"""


class Stored(NamedTuple):
    """A bundle of the store."""

    tag: str
    created: str
    folder: Path
    default_model: str


@click.command(epilog=EXAMPLES, short_help="Serve an earlier bundle, without a restart.")
@click.option("--to", "tag", help="Tag of the bundle to serve; the one before by default.")
@click.option("--undo", is_flag=True, help="Let services serve again what they were started with.")
@click.option("--list", "listing", is_flag=True, help="List the bundles and end.")
@frame.traceback_option
@frame.friendly
def rollback(tag: str | None, undo: bool, listing: bool) -> None:
    """Have services serve an earlier bundle, or any other one of the store, without losing a request.

    The choice holds for all services of this BENTOML_HOME, and for later ones, until --undo.
    """
    if (tag is not None) + undo + listing > 1:
        raise UserError("Only one thing at a time.", "--to, --undo, --list", "Give one of the three.")
    from prismrec.serving.switching import home_folder, point_to, pointed_to

    home = home_folder()
    if undo:
        point_to(home, None)
        click.echo("Services serve what they were started with, from the next second on.")
        return
    stored, chosen = _stored(), pointed_to(home)
    if listing:
        click.echo(as_table(stored, chosen))
        return
    target = _named(stored, tag) if tag else _before(stored, chosen)
    _verify(target)
    point_to(home, target.tag)
    click.echo(
        f"Services serve {target.tag} as soon as they have loaded it.\n"
        "  check:  curl localhost:3000/model\n"
        "  back:   prismrec rollback --undo"
    )


def _stored() -> list[Stored]:
    """The bundles of the store, newest first.

    Raises:
        UserError: there is none.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml
    from bentoml.exceptions import NotFound

    from prismrec.artifacts.bundle import MANIFEST_NAME
    from prismrec.serving.service import BUNDLE_FOLDER
    from prismrec.serving.switching import home_folder

    try:
        models = bentoml.models.list("prismrec")
    except NotFound as error:
        raise UserError(
            "BentoML's model store holds no bundle.", str(home_folder()), "Make one: kedro run --pipelines packaging"
        ) from error
    stored = []
    for model in sorted(models, key=lambda model: model.info.creation_time, reverse=True):
        folder = Path(model.path_of(BUNDLE_FOLDER))
        created = f"{model.info.creation_time:%Y-%m-%d %H:%M}"
        stored.append(Stored(str(model.tag), created, folder, _default_model(folder / MANIFEST_NAME)))
    return stored


def _default_model(manifest: Path) -> str:
    try:
        content: dict[str, Any] = json.loads(manifest.read_bytes())
        return str(content["default_model"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"


def _named(stored: list[Stored], tag: str) -> Stored:
    wanted = tag if ":" in tag else f"prismrec:{tag}"
    for one in stored:
        if one.tag == wanted:
            return one
    raise UserError(f"The store holds no bundle {wanted!r}.", "--to", "See: prismrec rollback --list")


def _before(stored: list[Stored], chosen: str | None) -> Stored:
    """The bundle stored before the one that was chosen last, or before the newest one."""
    tags = [one.tag for one in stored]
    now = tags.index(chosen) if chosen in tags else 0
    if now + 1 == len(stored):
        raise UserError(
            f"There is no bundle before {tags[now]}.", "BentoML's model store", "See: prismrec rollback --list"
        )
    return stored[now + 1]


def _verify(target: Stored) -> None:
    """Refuse a damaged bundle here, where somebody reads it; a service would go on with the one it has."""
    from prismrec.artifacts.bundle import read_bundle

    read_bundle(target.folder)


def as_table(stored: list[Stored], chosen: str | None) -> str:
    """The bundles, and which one was chosen."""
    width = max(len(one.tag) for one in stored)
    lines = [f"  {'tag':<{width}}  {'stored':<16}  default model"]
    lines += [
        f"{'*' if one.tag == chosen else ' '} {one.tag:<{width}}  {one.created}  {one.default_model}" for one in stored
    ]
    none = "No bundle is chosen: services serve what they were started with."
    return "\n".join([*lines, "", f"* chosen: {chosen}" if chosen else none])
