"""Download public data sets: the terms first, then every byte checked, and a folder that is whole or not there.

`prismrec.data.datasets` knows the addresses. Notable choices:

- Parts lie in `<data set>.part/` beside the data set's folder. A part is continued only where the server vouches
  that the file is still the same (an HTTP range on condition of its ETag or date); otherwise it starts anew.
- What is unpacked goes into a temporary folder, which gets its name once everything is on the disk.
- Of two downloads of one data set into one folder at once, the second ends with an error: a lock on the parts'
  folder, which the kernel drops with its process.
- Only https, after redirections too (and plain http to this very machine, for tests).

Only the standard library, pydantic and, for the bar, tqdm: an install for serving can download too.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from prismrec import __version__
from prismrec.artifacts.atomic import atomic_folder
from prismrec.data.archives import UnusableArchive, unpack
from prismrec.data.datasets import DataSet, Registry, RemoteFile, licence_text, official
from prismrec.errors import UserError

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before another try after a fault that may pass
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20  # bytes
# Answers that may be another one later, beside all from 500 on.
PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

Say = Callable[[str], None]


def download(
    name: str, root: Path, registry: Registry, *, agree: Callable[[], None], say: Say, bar: bool = False
) -> Path:
    """Download a data set into a folder of its name, unless the folder is there already.

    Args:
        name: of the data set.
        root: the folder of all data sets; made if it is missing.
        registry: the data sets there are.
        agree: called after the terms were said and before the first request; raises if they are not agreed to.
        say: receives every line for the person.
        bar: show a progress bar on stderr.

    Returns:
        The data set's folder.

    Raises:
        UserError: no such data set, no agreement, a server or a network that does not answer, a file that is not
            the expected one, an archive that must not be unpacked, a folder that cannot be written, or another
            download of the same data set that is running. The data set's folder is then not there.
    """
    data_set = registry.find(name)
    target = root / name
    if target.exists():
        say(f"{name} is there already: {target}. Remove that folder to download it anew.")
        return target
    say(licence_text(registry, name))
    agree()
    try:
        with _alone(root / f"{name}.part") as work:
            # Another download may have ended while this one was asking.
            if not target.exists():
                _download(data_set, work, target, say, bar)
            shutil.rmtree(work)
    except OSError as error:
        raise UserError(
            f"The download cannot be written: {error.strerror or error}.",
            str(error.filename or root),
            "Make room, or give yourself the right to write there, or choose another folder with --to; "
            "what came so far is kept and continued.",
        ) from error
    say(f"{name} is in {target}")
    return target


def _download(data_set: DataSet, work: Path, target: Path, say: Say, bar: bool) -> None:
    whole = [_fetch(file, work, say, bar) for file in data_set.files]
    with atomic_folder(target) as folder:
        for file, path in zip(data_set.files, whole, strict=True):
            try:
                unpack(path, folder, file.inside)
            except UnusableArchive as error:
                # The next try shall not meet the same bytes.
                path.unlink()
                raise UserError(
                    f"{file.name} {error}. It was removed, and nothing was unpacked.",
                    file.address,
                    "Run the same command again; if it ends the same way, report it to us.",
                ) from error


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[Path]:
    """Make the folder of parts and hold its lock, which belongs to one download at a time."""
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who had the lock may have ended, and removed the folder that we opened.
        if not work.exists() or work.stat().st_ino != os.fstat(handle).st_ino:
            raise BlockingIOError
        yield work
    except BlockingIOError as error:
        raise UserError(
            "Another download of this data set is running.", str(work), "Wait for its end, or stop it first."
        ) from error
    finally:
        # Nothing came: nothing is left. A folder with parts is not empty, and stays.
        with contextlib.suppress(OSError):
            work.rmdir()
        os.close(handle)


class _Interrupted(Exception):
    """A fault that may pass: the part is kept, and the file is asked for again."""


@dataclass(frozen=True)
class _Part:
    """A file on its way; beside it stands what is known of the server's version of it."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def mark(self) -> str:
        """What the server calls this version, its ETag or date; empty if it calls it nothing."""
        return str(self._read().get("mark", ""))

    @property
    def total(self) -> int | None:
        """The bytes of the whole file, if the server said so."""
        total: int | None = self._read().get("total")
        return total

    def start(self, mark: str, total: int | None) -> None:
        """Begin anew; the bytes go before the notes, so that no kill leaves old bytes under a new mark."""
        self.drop()
        self._notes.write_text(json.dumps({"mark": mark, "total": total}), encoding="utf-8")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    @property
    def _notes(self) -> Path:
        return self.path.with_suffix(".json")

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            notes: dict[str, Any] = json.loads(self._notes.read_text(encoding="utf-8"))
            return notes
        return {}


def _fetch(file: RemoteFile, work: Path, say: Say, bar: bool) -> Path:
    """Return the whole file, checked; one that an earlier run left is checked again and not asked for."""
    whole = work / file.name
    part = _Part(work / f"{file.name}.part")
    if whole.exists():
        say(f"{file.name} was downloaded before.")
    else:
        _ask_until_whole(file, part, say, bar)
        part.path.rename(whole)
        part.drop()
    try:
        _check(file, whole, say)
    except UserError:
        whole.unlink()
        raise
    return whole


def _ask_until_whole(file: RemoteFile, part: _Part, say: Say, bar: bool) -> None:
    for wait in (*WAITS, None):
        try:
            return _continue(file, part, say, bar)
        except _Interrupted as error:
            if wait is None:
                raise UserError(
                    f"{file.name} could not be downloaded: {error}.",
                    file.address,
                    f"Check the network and run the same command again; {part.size:,} bytes are kept and continued.",
                ) from error
            say(f"{file.name}: {error}; trying again in {wait:g} s.")
            time.sleep(wait)
    return None


def _continue(file: RemoteFile, part: _Part, say: Say, bar: bool) -> None:
    """Ask once for what is missing, and append it to the part.

    Raises:
        _Interrupted: the part is not whole yet, or had to be dropped.
    """
    have = part.size
    if have and have == part.total:
        return
    conditions = {"Range": f"bytes={have}-", "If-Range": part.mark} if have and part.mark else {}
    with _open(file, conditions, part) as response:
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            _check_continuation(response, part, have)
            say(f"{file.name} continues after {have:,} bytes.")
        else:
            if have:
                say(f"{file.name} {_why_anew(response, part)}; it starts anew.")
            _check_size(file, _length(response))
            part.start(_mark(response), _length(response))
        _append(response, file, part, bar)
    if part.total is not None and part.size != part.total:
        raise _Interrupted(f"the connection ended after {part.size:,} of {part.total:,} bytes")


def _open(file: RemoteFile, headers: Mapping[str, str], part: _Part) -> http.client.HTTPResponse:
    """Send one request; tell the faults that may pass from those that will not."""
    headers = {"User-Agent": f"prismrec/{__version__}", **headers}
    try:
        response: http.client.HTTPResponse = _OPENER.open(
            urllib.request.Request(file.address, headers=headers), timeout=TIMEOUT
        )
        return response
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(file, error, part) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(
                f"The server of {file.name} cannot prove who it is: {reason.verify_message}.",
                file.address,
                "Check this machine's clock and proxy; if its owner let the certificate expire, try again later.",
            ) from error
        raise _Interrupted(f"the server cannot be reached ({_words(reason)})") from error


def _refusal(file: RemoteFile, error: urllib.error.HTTPError, part: _Part) -> Exception:
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.drop()
        return _Interrupted("the server has no such rest of the file, so that it starts anew")
    if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code in PASSING:
        return _Interrupted(f"the server answers {error.code} {error.reason}")
    return UserError(
        f"{file.name} is not to be had: the server answers {error.code} {error.reason}.",
        file.address,
        "Look at the owner's page for its new address, and report it to us.",
    )


def _check_continuation(response: http.client.HTTPResponse, part: _Part, have: int) -> None:
    """Make sure that a rest is the rest of what we have: not every server checks our condition."""
    starts = response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
    mark = _mark(response)
    if starts != str(have) or (mark and mark != part.mark):
        part.drop()
        raise _Interrupted("the server sent the rest of another file, so that it starts anew")


def _why_anew(response: http.client.HTTPResponse, part: _Part) -> str:
    if not part.mark:
        return "cannot be continued, as the server does not say which version it is"
    return "has changed on the server" if _mark(response) != part.mark else "cannot be continued by this server"


def _append(response: http.client.HTTPResponse, file: RemoteFile, part: _Part, bar: bool) -> None:
    from tqdm import tqdm

    shown = tqdm(
        total=part.total, initial=part.size, desc=file.name, unit="B", unit_scale=True, disable=not bar, leave=False
    )
    with shown, part.path.open("ab") as stream:
        while chunk := _receive(response):
            stream.write(chunk)
            shown.update(len(chunk))
        stream.flush()
        os.fsync(stream.fileno())


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"the connection broke ({_words(error)})") from error


def _check(file: RemoteFile, path: Path, say: Say) -> None:
    """Compare size and checksums; say the SHA-256 where none is known."""
    _check_size(file, path.stat().st_size)
    for kind, expected in file.checksums.items():
        got = _digest(path, kind)
        if got != expected:
            raise UserError(
                f"{file.name} is damaged, or not the file that we know: its {kind} is {got} and not {expected}. "
                "It was removed.",
                file.address,
                "Run the same command again; if it ends the same way, the owner has changed the file: report it to us.",
            )
    if file.checksums:
        say(f"{file.name}: {' and '.join(file.checksums)} as expected.")
    else:
        got = _digest(path, "sha256")
        say(f"{file.name}: no checksum of it is known, so it could not be compared. Its sha256 is {got}")


def _check_size(file: RemoteFile, size: int | None) -> None:
    if file.size is not None and size is not None and file.size != size:
        raise UserError(
            f"{file.name} is not the file that we know: {size:,} bytes instead of {file.size:,}.",
            file.address,
            "Something else may answer at this address (a proxy's page); try another network. "
            "If the owner published a new version, report it to us.",
        )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _mark(response: http.client.HTTPResponse) -> str:
    """Return a mark by which HTTP tells whether two answers hold the same bytes; weak ETags do not."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _length(response: http.client.HTTPResponse) -> int | None:
    length = str(response.headers.get("Content-Length", ""))
    return int(length) if length.isdigit() else None


def _words(error: object) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


class _OfficialRedirections(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            official(newurl)
        except ValueError as error:
            raise UserError(
                "The server sends us on to an address without https, where anybody between could change the file.",
                f"{req.full_url} -> {newurl}",
                "Look at the owner's page for a new address, and report it to us.",
            ) from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_OfficialRedirections)
