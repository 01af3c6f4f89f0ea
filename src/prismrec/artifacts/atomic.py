"""Folders that appear whole or not at all, and checksums of what they hold.

Kedro's versioned save writes in place: a kill leaves a truncated file that is then found as the latest
version. Our choice: write into a temporary sibling, flush everything to the disk, and give it its name
with one `os.rename`, which the file system does in one step. What a killed writer leaves behind starts
with ".tmp-" and is removed by the next save beside it. A living writer holds a lock on its temporary
folder, which the kernel drops with the process, so that nobody has to guess from process ids (POSIX only).
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from prismrec.errors import UserError

TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which becomes `target` when the block ends without an error.

    Args:
        target: path of the folder to be; its parents are made.

    Yields:
        The temporary folder, empty, on the same file system. An error in the block removes it.

    Raises:
        FileExistsError: if `target` exists; it is left as it is.
        UserError: if the disk is full.
    """
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise FileExistsError(f"{target} exists")
    temporary = parent / f"{TEMPORARY_PREFIX}{target.name}-{secrets.token_hex(4)}"
    # Under the parent's lock no other writer can take our folder for a dead one's before it is locked.
    with _locked(parent):
        _remove_leftovers(parent)
        temporary.mkdir()
        writing = _lock_now(temporary)
    assert writing is not None, "a new folder is nobody else's"
    try:
        yield temporary
        _flush_tree(temporary)
        temporary.rename(target)
        _flush(parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, Exception) and is_full_disk(error):
            raise UserError(
                f"The disk is full: {target.name} could not be written, and nothing of it was kept.",
                str(parent),
                "Make room there, or choose a folder on another disk; then run the same command again.",
            ) from error
        raise
    finally:
        os.close(writing)


def is_full_disk(error: Exception) -> bool:
    """Whether an error comes from a disk or quota without room; polars and pyarrow only say so in words."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(os.strerror(number) in str(error) for number in full)


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step: under its name there is the whole of it, or nothing."""
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}-{secrets.token_hex(4)}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)  # what is left of it the next save beside it removes


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(path: Path) -> list[Path]:
    """Return the files of a folder, however deep, sorted by name; a file is its own only one."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def sha256_folder(folder: Path) -> str:
    """Return one SHA-256 over the relative names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in files_of(folder):
        digest.update(f"{sha256_file(file)}  {file.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock_now(folder: Path) -> int | None:
    """Lock a folder without waiting: an open handle that holds the lock, or None if a writer lives."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _remove_leftovers(parent: Path) -> None:
    for leftover in parent.glob(f"{TEMPORARY_PREFIX}*"):
        # A living writer may rename or remove its folder at any moment, without the parent's lock.
        with contextlib.suppress(FileNotFoundError):
            handle = _lock_now(leftover)
            if handle is not None:
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(handle)


def _flush_tree(folder: Path) -> None:
    for directory, _, names in os.walk(folder, topdown=False):
        for name in names:
            _flush(Path(directory, name))
        _flush(Path(directory))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
