"""Find the files of a source and open them: plain, gzip or zstd, told by their first bytes, block by block.

Whatever is wrong with a file as such (missing, a folder, not to be read, cut off, changed while it was read)
is a `UserError` here that names the file. A file is looked at when it is found, when it is opened and when its
last byte has been read: rows of two states of one file never come into one table.
"""

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from prismrec.errors import UserError

BLOCK = 16 * 1024 * 1024  # bytes read at once, after decompression
HEAD = 256 * 1024  # bytes that are looked at to tell formats and units
GZIP, ZSTD, ZIP, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
NAMES_SHOWN = 12
DATA_ROOT_MEND = (
    "put the data set there, or point data_root at it: export PRISMREC_DATA_ROOT=/path/to/data,"
    " or set data_root in conf/base/globals.yml"
)


@dataclass(frozen=True)
class RawFile:
    """A file as it was when it was found.

    Attributes:
        path: where it lies.
        name: its path below the data set's folder, which the tables and reports give.
        size: bytes.
        modified: time of its last change, nanoseconds.
        inode: the file system's number of it, which tells a file that was put in its place.
    """

    path: Path
    name: str
    size: int
    modified: int
    inode: int


def find_folder(data_root: str, folder: str, source: str) -> Path:
    """Return the data set's folder.

    Raises:
        UserError: there is no such folder.
    """
    path = Path(data_root) / folder
    if not path.is_dir():
        raise UserError(
            f"The raw data of source '{source}' is not there: no such folder.",
            f"{path} (data_root is '{data_root}')",
            DATA_ROOT_MEND,
        )
    return path


def find_file(folder: Path, name: str) -> RawFile:
    """Return one file of a folder.

    Raises:
        UserError: it is missing, a folder, or not to be looked at.
    """
    path = folder / name
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise _missing(folder, name) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise UserError(f"{name} is {what}, not a file.", str(path), "name a file, or a pattern such as 'logs/*.csv'")
    return RawFile(path, name, status.st_size, status.st_mtime_ns, status.st_ino)


def find_files(folder: Path, pattern: str) -> tuple[RawFile, ...]:
    """Return the files that a name or a pattern stands for, sorted by name.

    Raises:
        UserError: there is none, or one of them is not to be read.
    """
    if not any(sign in pattern for sign in "*?[") or (folder / pattern).exists():
        return (find_file(folder, pattern),)
    try:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"'{pattern}' is no pattern that can be looked for: {error}.", str(folder), "give it within the folder"
        ) from error
    if not names:
        raise UserError(f"No file fits '{pattern}'.", str(folder), f"{_there_is(folder)}; mend the path")
    return tuple(find_file(folder, name) for name in names)


def names_in(folder: Path) -> list[str]:
    """Names of the files that lie directly in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def read_blocks(file: RawFile, size: int = BLOCK) -> Iterator[bytes]:
    """Yield the file's bytes, decompressed, in pieces of at most `size`.

    Raises:
        UserError: it cannot be read, is cut off or damaged, or is no longer the file that was found.
    """
    with _named_errors(file), _opened(file) as stream:
        while block := stream.read(size):
            yield block
        check_unchanged(file)


def first_bytes(file: RawFile, size: int = HEAD) -> bytes:
    """Return the first bytes of a file, decompressed.

    Raises:
        UserError: as `read_blocks`.
    """
    with _named_errors(file), _opened(file) as stream:
        head: bytes = stream.read(size)
        return head


def check_unchanged(file: RawFile) -> None:
    """Raise `UserError` where the file is no longer the one that was found."""
    now = find_file_again(file)
    if (now.st_size, now.st_mtime_ns, now.st_ino) != (file.size, file.modified, file.inode):
        raise UserError(
            f"{file.name} was changed while it was read ({file.size:,} bytes before, {now.st_size:,} now).",
            str(file.path),
            "wait until it is written, or read a copy; then run again",
        )


def find_file_again(file: RawFile) -> os.stat_result:
    """Return what the file system says of the file now; a vanished one is a `UserError`."""
    try:
        return file.path.stat()
    except OSError as error:
        raise UserError(
            f"{file.name} was removed while it was read.", str(file.path), "put it back and run again"
        ) from error


@contextmanager
def _opened(file: RawFile) -> Iterator[IO[bytes]]:
    check_unchanged(file)
    with file.path.open("rb") as plain:
        magic = plain.read(4)
        plain.seek(0)
        if magic.startswith(GZIP):
            with gzip.open(plain, "rb") as stream:
                yield io.BufferedReader(stream)
        elif magic == ZSTD:
            import pyarrow as pa

            stream_: Any = pa.CompressedInputStream(pa.PythonFile(plain, mode="r"), "zstd")
            yield stream_
        elif magic == ZIP:
            raise UserError(
                f"{file.name} is a zip archive or a spreadsheet, not a table in text.",
                str(file.path),
                "unpack it (unzip), or export the sheet as CSV in UTF-8, and name that file",
            )
        else:
            yield plain


@contextmanager
def _named_errors(file: RawFile) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(file, "gzip", error) from error
    except PermissionError as error:
        raise _unreadable(file.path, error) from error
    except OSError as error:
        if error.errno is None:  # pyarrow's, about the bytes
            raise damaged(file, "zstd", error) from error
        raise _unreadable(file.path, error) from error


def damaged(file: RawFile, kind: str, error: BaseException) -> UserError:
    """The error of a file that is cut off, or whose bytes are not what they should be."""
    return UserError(
        f"{file.name} is cut off or damaged: {short(error)}.",
        f"{file.path} ({kind}, {file.size:,} bytes)",
        "copy or download it again, whole, and compare its size with the original's",
    )


def short(error: BaseException) -> str:
    """The first line of an error's text, without its full stop."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(". ")


def _missing(folder: Path, name: str) -> UserError:
    return UserError(
        f"The file {Path(name).name} is missing.",
        f"{folder / name} ({_there_is(folder)})",
        f"{_nearest(name, folder)}{DATA_ROOT_MEND}",
    )


def _there_is(folder: Path) -> str:
    names = names_in(folder)
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    return f"the folder holds {shown}" if names else "the folder holds no file"


def _nearest(name: str, folder: Path) -> str:
    near = get_close_matches(name, names_in(folder), n=1)
    return f"name it if '{near[0]}' is meant, or " if near else ""


def _unreadable(path: Path, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or str(error)
    mend = "check the path, and the disk or share that it lies on"
    if isinstance(error, PermissionError):
        mend = f"allow reading it: chmod u+r '{path}'"
    elif isinstance(error, ValueError):
        mend = "give the path without control characters"
    return UserError(f"{_printable(path.name)} cannot be read: {why}.", _printable(str(path)), mend)


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
