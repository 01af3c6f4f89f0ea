"""The registry of public data sets: addresses, sizes, checksums and terms, read from `datasets.toml`.

The TOML file is the one place that knows them; this module gives it types, and words for a person. Our choice:
the terms are told in our own words with a link to the owner's page, which is what counts.
"""

import shlex
import textwrap
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from prismrec.errors import UserError

REGISTRY = Path(__file__).with_name("datasets.toml")
HERE = ("localhost", "127.0.0.1")


def official(address: str) -> str:
    """Return the address if it may be asked: https, or this very machine."""
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in HERE:
        raise ValueError(f"{address} is not an https address")
    return address


class Entry(BaseModel):
    """What the registry's tables have in common: no other keys, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(Entry):
    """Whose the data are and what may be done with them, in our words."""

    owner: str = Field(description="Who publishes the data.")
    terms: str = Field(description="The terms in short, in our own words.")


class RemoteFile(Entry):
    """One file at its official address."""

    address: Annotated[str, AfterValidator(official)] = Field(description="Official address.")
    size: PositiveInt | None = Field(default=None, description="Its bytes; null where not known for sure.")
    checksums: dict[Literal["md5", "sha256"], str] = Field(description="What it has to have; empty: none is known.")
    inside: str = Field(default="", description="The folder in a zip archive that holds the data.")

    @property
    def name(self) -> str:
        """The file's name, the last part of its address."""
        return PurePosixPath(urlsplit(self.address).path).name


class DataSet(Entry):
    """A public data set: one or several files that become one folder below the data root."""

    title: str = Field(description="Name, size and time span.")
    licence: str = Field(description="A key of the registry's licences.")
    link: str = Field(description="The page with the terms in full.")
    source: str = Field(description="The source that reads it.")
    environment: str = Field(default="", description="The folder in conf/ made for it; empty: there is none.")
    files: tuple[RemoteFile, ...] = Field(min_length=1, description="What is downloaded.")


class Registry(Entry):
    """The content of `datasets.toml`."""

    licences: Mapping[str, Licence] = Field(description="Terms by key.")
    datasets: Mapping[str, DataSet] = Field(description="Data sets by the name of their folder.")

    @model_validator(mode="after")
    def _licences_exist(self) -> "Registry":
        for name, data_set in self.datasets.items():
            if data_set.licence not in self.licences:
                raise ValueError(f"{name} names the licence {data_set.licence}, which there is not")
        return self

    def find(self, name: str) -> DataSet:
        """Return a data set by name.

        Raises:
            UserError: if there is none of that name; lists those that there are.
        """
        if name in self.datasets:
            return self.datasets[name]
        close = get_close_matches(name, self.datasets, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"There is no data set {name!r} to download.{meant}",
            f"the registry knows {', '.join(self.datasets)}",
            "prismrec download --list",
        )


def read_registry(path: Path | None = None) -> Registry:
    """Read the registry of data sets; another one than the packaged only in tests."""
    return Registry.model_validate(tomllib.loads((path or REGISTRY).read_text(encoding="utf-8")))


def listing(registry: Registry) -> str:
    """Return the table of all data sets: name, bytes to download, what is compared, title."""
    lines = [f"{'name':<26} {'download':>10}  {'checksum':<8}  what it is"]
    for name, data_set in registry.datasets.items():
        known = "all" if all(f.checksums for f in data_set.files) else "some"
        compared = known if any(f.checksums for f in data_set.files) else "none"
        lines.append(f"{name:<26} {_size(data_set):>10}  {compared:<8}  {data_set.title}")
    return "\n".join(lines)


def licence_text(registry: Registry, name: str) -> str:
    """Return what a person has to know before the first byte: whose it is, the terms, and where they stand."""
    data_set = registry.find(name)
    licence = registry.licences[data_set.licence]
    terms = textwrap.fill(licence.terms, 100, subsequent_indent=" " * 12)
    return "\n".join(
        [
            data_set.title,
            f"  owner:    {licence.owner}",
            f"  terms:    {terms}",
            f"  in full:  {data_set.link} (that page is what counts)",
            *(f"  from:     {file.address}" for file in data_set.files),
            f"  download: {_size(data_set)}",
        ]
    )


def next_step(name: str, data_set: DataSet, root: Path | None) -> str:
    """Return what to type next.

    Args:
        name: of the data set.
        data_set: its entry.
        root: the data root, if the project does not know it by itself.
    """
    known = "" if root is None else f"PRISMREC_DATA_ROOT={shlex.quote(str(root))} "
    if data_set.environment:
        return f"Next: {known}kedro run --env {data_set.environment}"
    return (
        f"Next: in conf/<environment>/parameters_data_validation.yml\n"
        f"  data_validation:\n    source: {data_set.source}\n    folder: {name}\n"
        f"and {known}kedro run --env <environment> (docs/how-to/download-data.md)"
    )


def _size(data_set: DataSet) -> str:
    sizes = [file.size for file in data_set.files]
    known = sum(size for size in sizes if size)
    if not known:
        return "unknown"
    return f"{'> ' if None in sizes else ''}{known / 1e6:,.1f} MB"
