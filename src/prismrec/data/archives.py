"""Unpack what came from elsewhere: only plain files, only into the folder, only so many bytes.

Our choice: the sizes that an archive states are checked first, so that nothing is unpacked of one that is too
large, and the bytes written are counted too, as what is stated can be wrong.
"""

import gzip
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

CHUNK = 1 << 20  # bytes
# Unpacked bytes for each packed one. Tables of ratings reach 3 to 10; a zip bomb reaches 1,000.
MAX_EXPANSION = 40


class UnusableArchive(Exception):
    """It is no whole archive, or one that must not be unpacked; the text continues "this file …"."""


def unpack(path: Path, folder: Path, inside: str = "") -> None:
    """Unpack a .zip or .gz file into a folder, or copy any other file there.

    Args:
        path: the file, packed or not.
        folder: where to; what was written is left there if an error is raised.
        inside: the folder in a zip archive whose content is wanted; everything by default.

    Raises:
        UnusableArchive: damaged, or with a path outside of the folder, a link, a name twice, or more than
            `MAX_EXPANSION` times its own bytes.
    """
    budget = MAX_EXPANSION * path.stat().st_size
    try:
        if path.suffix == ".zip":
            _unzip(path, folder, inside, budget)
        elif path.suffix == ".gz":
            with gzip.open(path) as packed:
                _copy(packed, folder / path.stem, budget)
        else:
            shutil.copyfile(path, folder / path.name)
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UnusableArchive(f"cannot be unpacked ({error})") from error


def _unzip(path: Path, folder: Path, inside: str, budget: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            _check_member(member)
        if sum(member.file_size for member in members) > budget:
            raise _too_large(budget)
        wanted = [member for member in members if PurePosixPath(member.filename).is_relative_to(inside)]
        if not wanted:
            raise UnusableArchive(f"holds nothing below {inside}/, where the data should be")
        for member in wanted:
            place = folder / PurePosixPath(member.filename).relative_to(inside)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed:
                budget -= _copy(packed, place, budget)


def _check_member(member: zipfile.ZipInfo) -> None:
    """Refuse what could be written outside of the folder, and whatever is no plain file."""
    name = PurePosixPath(member.filename)
    # Archives made on Windows may hold backslashes and drives; we know of no need for either.
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename:
        raise UnusableArchive(f"holds a path that leaves the folder ({member.filename})")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise UnusableArchive(f"holds a link or a device ({member.filename})")


def _copy(packed: IO[bytes] | gzip.GzipFile, place: Path, budget: int) -> int:
    """Write a file that must be new and of at most `budget` bytes; return its bytes."""
    written = 0
    try:
        stream = place.open("xb")
    except FileExistsError as error:
        raise UnusableArchive(f"holds {place.name} twice") from error
    with stream:
        while chunk := packed.read(CHUNK):
            written += len(chunk)
            if written > budget:
                raise _too_large(budget)
            stream.write(chunk)
    return written


def _too_large(budget: int) -> UnusableArchive:
    return UnusableArchive(f"unpacks to more than {budget:,} bytes ({MAX_EXPANSION} times its size)")
