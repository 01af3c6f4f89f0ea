"""Which bundle is served, and switching to another one without a lost request.

    $BENTOML_HOME/prismrec-serves    one line: a model tag such as `prismrec:0123abcd`, or `prismrec:latest`

Every worker asks once a second which bundle it should serve. Where that is another than the one it serves, it loads,
verifies and warms up the new one in the background, and then swaps: requests that run end on the old one, the next
ones start on the new one, and none waits. A bundle that is refused is logged in one line, and the old one goes on.
Our choice instead of restarts behind a load balancer: it needs nothing but a file. It knows no BentoML.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from prismrec.errors import UserError
from prismrec.serving.engine import Engine

POINTER = "prismrec-serves"
INTERVAL = 1.0  # seconds between two looks

log = logging.getLogger(__name__)


def pointed_to(home: Path) -> str | None:
    """The tag that BentoML's home names; None where it names none."""
    try:
        return (home / POINTER).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def point_to(home: Path, tag: str | None) -> None:
    """Have all workers serve a tag from now on; None: what they were started with."""
    pointer = home / POINTER
    if tag is None:
        pointer.unlink(missing_ok=True)
        return
    temporary = home / f".{POINTER}-{secrets.token_hex(4)}"
    temporary.write_text(f"{tag}\n", encoding="utf-8")
    temporary.replace(pointer)


class Switch:
    """Holds the engine that answers, and follows the bundle that should be served.

    Args:
        wanted: folder of the bundle that should be served now.
        load: makes an engine of it, warmed up.

    Raises:
        UserError: the first bundle is refused.
    """

    def __init__(self, wanted: Callable[[], Path], load: Callable[[Path], Engine]) -> None:
        self._wanted, self._load = wanted, load
        self._folder = wanted()
        self._refused: Path | None = None
        self._said = ""  # the last refusal
        self.engine = load(self._folder)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Switch to the bundle that should be served, if it is another one."""
        try:
            folder = self._wanted()
        except Exception as error:
            self._refuse(error)
            return
        if folder == self._folder:
            self._refused, self._said = None, ""
        elif folder != self._refused:  # a refused one is not read again every second
            try:
                engine = self._load(folder)
            except Exception as error:  # whatever it is, it would be the same in a second
                self._refused = folder
                self._refuse(error)
                return
            self._folder, self._refused, self._said, self.engine = folder, None, "", engine
            log.info("Now serving bundle %s", engine.bundle)

    def _refuse(self, error: Exception) -> None:
        """Say it, once; with a traceback where only a bug or a broken disk can be the cause."""
        what, trace = (error.what, None) if isinstance(error, UserError) else (repr(error), error)
        text = f"The bundle {self.engine.bundle} goes on: {what}"
        if text != self._said:
            self._said = text
            log.error("%s", text, exc_info=trace)

    def follow(self) -> None:
        """Look once a second from now on, in a thread that ends with the process."""
        self._thread = threading.Thread(target=self._run, name="prismrec-switch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self.look()


def home_folder() -> Path:
    """BentoML's home, as BentoML finds it."""
    return Path(os.environ.get("BENTOML_HOME", "~/bentoml")).expanduser()
