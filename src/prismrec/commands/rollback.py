"""`prismrec rollback`: have running services go back to an earlier bundle of BentoML's model store, without a restart.

A file in BENTOML_HOME names the bundle (`prismrec.serving.switching`); every worker looks at it once a second, loads
and verifies the bundle while it goes on answering, and then swaps.

Without a tag it goes one step back, from what is served (chosen earlier, or PRISMREC_MODEL, or else the newest bundle)
to the next older bundle of the very same catalogue: a store may hold bundles of several data sets, and nobody wants to
land in another one by accident (our choice). Any bundle may be named.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import click

from prismrec.commands import frame
from prismrec.errors import UserError

MODEL_VARIABLE = "PRISMREC_MODEL"
LATEST = "prismrec:latest"
SEE = "Name one: prismrec rollback --to …; see prismrec rollback --list"
EXAMPLES = """
\b
Examples:
  prismrec rollback --list                     the bundles of the store, newest first
  prismrec rollback                            serve the one before, of the same catalogue
  prismrec rollback --to prismrec:0123abcd     serve this one
  prismrec rollback --undo                     serve what the services were started with
\b
BENTOML_HOME says which store, ~/bentoml by default.
"""


class Stored(NamedTuple):
    """A bundle of the store; `catalogue` is the checksum of its items."""

    tag: str
    created: str
    folder: Path
    default_model: str
    items: int
    catalogue: str

    def __str__(self) -> str:
        return f"{self.tag} ({self.items:,} items, {self.default_model})"


@click.command(epilog=EXAMPLES, short_help="Serve an earlier bundle, without a restart.")
@click.option("--to", "tag", help="Tag of the bundle to serve; the one before, of the same catalogue, by default.")
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
    served = _served(stored, chosen)
    target = _named(stored, tag) if tag else _before(stored, served)
    _verify(target)
    point_to(home, target.tag)
    click.echo(
        f"from  {served or chosen}\nto    {target}, as soon as services have loaded it\n"
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
        stored.append(Stored(str(model.tag), created, folder, *_content(folder)))
    return stored


def _content(folder: Path) -> tuple[str, int, str]:
    """Default model, number of items and their checksum."""
    from prismrec.artifacts.bundle import ITEMS_NAME, MANIFEST_NAME

    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_bytes())
        with (folder / ITEMS_NAME).open("rb") as lines:
            items = sum(1 for _ in lines)
        return str(manifest["default_model"]), items, str(manifest["files"][ITEMS_NAME]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged", 0, ""


def _named(stored: list[Stored], tag: str) -> Stored:
    wanted = tag if ":" in tag else f"prismrec:{tag}"
    for one in stored:
        if one.tag == wanted:
            return one
    raise UserError(f"The store holds no bundle {wanted!r}.", "--to", "See: prismrec rollback --list")


def _served(stored: list[Stored], chosen: str | None) -> Stored | None:
    """The bundle that services serve, as far as this command can know; None if it is not in the store any more."""
    tag = chosen or os.environ.get(MODEL_VARIABLE)
    if tag is None or tag == LATEST:
        return stored[0]
    return next((one for one in stored if one.tag == tag), None)


def _before(stored: list[Stored], served: Stored | None) -> Stored:
    """The next older bundle of the same catalogue."""
    if served is None:
        raise UserError(
            "The bundle that is served is not in the store any more.",
            "prismrec-serves in BENTOML_HOME, or PRISMREC_MODEL",
            SEE,
        )
    older = stored[stored.index(served) + 1 :]
    for one in older:
        if one.catalogue and one.catalogue == served.catalogue:
            return one
    others = f"; {len(older)} older ones have another" if older else ""
    raise UserError(f"There is no bundle before {served} of the same catalogue{others}.", "BentoML's model store", SEE)


def _verify(target: Stored) -> None:
    """Refuse a damaged bundle here, where somebody reads it; a service would go on with the one it has."""
    from prismrec.artifacts.bundle import read_bundle

    read_bundle(target.folder)


def as_table(stored: list[Stored], chosen: str | None) -> str:
    """The bundles, and which one was chosen."""
    width = max(len(one.tag) for one in stored)
    lines = [f"  {'tag':<{width}}  {'stored':<16}  {'items':>9}  {'catalogue':<9}  default model"]
    lines += [
        f"{'*' if one.tag == chosen else ' '} {one.tag:<{width}}  {one.created}  {one.items:>9,}  "
        f"{one.catalogue[:8]:<9}  {one.default_model}"
        for one in stored
    ]
    none = "No bundle is chosen: services serve what they were started with."
    return "\n".join([*lines, "", f"* chosen: {chosen}" if chosen else none])
