"""Users' events, kept where the operator says: in an SQLite file, in Redis, or nowhere.

    PRISMREC_HISTORY=sqlite:///events.db        a file in the working directory; four slashes for an absolute path
    PRISMREC_HISTORY=redis://host:6379/0        needs the extra: pip install 'prismrec[redis]'

The service itself needs no store: `POST /recommend` takes the history with the request. A store lets a client send
events as they happen and ask by user id, and keeps what the model inferred from them (`recall`, `remember`).

Our choices: an event is one user, one item, one second; sent twice it is kept once, so that a client may repeat a
request of which it got no answer. Events lie in the order of their times, those of one second in the order of their
arrival. The newest MAX_HISTORY of a user stay. What is remembered of a user carries a key, and is given back under
the same key only; new events and `forget` drop it, and it is never written for a user without events, so that an
answer which is still being computed leaves no trace of a user who is forgotten meanwhile.

Nothing is pickled. Any number of processes may share a store.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from prismrec.errors import UserError
from prismrec.serving.types import MAX_HISTORY

HISTORY_VARIABLE = "PRISMREC_HISTORY"
WAIT = 1.0  # seconds that a call waits for another process or for the network; other requests wait as long
SQLITE, REDIS = ("sqlite",), ("redis", "rediss", "unix")
PLACES = 2**13  # events of one second that keep the order of their arrival in Redis: 2^40 seconds * 2^13 fit a double

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    place INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, time INTEGER NOT NULL, item TEXT NOT NULL,
    UNIQUE (user, time, item)
) STRICT;
CREATE TABLE IF NOT EXISTS remembered (user TEXT PRIMARY KEY, key TEXT NOT NULL, value BLOB NOT NULL) STRICT;
"""
# Each script is one step for everybody else. KEYS: the user's events, and what is remembered of them.
ADD = f"""
local added = 0
for i = 2, #ARGV, 2 do
  local time, member = tonumber(ARGV[i]), ARGV[i] .. ':' .. ARGV[i + 1]
  if not redis.call('ZSCORE', KEYS[1], member) then
    local first, last = time * {PLACES}, time * {PLACES} + {PLACES - 1}
    local from, to = string.format('%.0f', first), string.format('%.0f', last)
    local newest = redis.call('ZREVRANGEBYSCORE', KEYS[1], to, from, 'WITHSCORES', 'LIMIT', 0, 1)
    local place = newest[2] and math.min(tonumber(newest[2]) + 1, last) or first
    redis.call('ZADD', KEYS[1], string.format('%.0f', place), member)
    added = added + 1
  end
end
if added > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -(tonumber(ARGV[1]) + 1))
  redis.call('DEL', KEYS[2])
end
return added
"""
REMEMBER = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[2], 'key', ARGV[1], 'value', ARGV[2]) end
"""
FORGET = """
local events = redis.call('ZCARD', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
return events
"""


class StoreUnavailable(Exception):
    """The store does not answer now; its text is for clients and names no place."""

    def __init__(self) -> None:
        super().__init__("The history store does not answer. Try again soon.")


class StoredEvent(NamedTuple):
    """A user met an item."""

    item_id: str
    timestamp: int  # seconds since 1970 UTC, below 2^40


class HistoryStore(ABC):
    """Events by user, and what was inferred from them; every call may raise `StoreUnavailable`."""

    @abstractmethod
    def add(self, user: str, events: Sequence[StoredEvent]) -> int:
        """Keep events; how many of them were new."""

    @abstractmethod
    def history(self, user: str) -> list[StoredEvent]:
        """The user's events, oldest first; none of a user nobody knows."""

    @abstractmethod
    def remember(self, user: str, key: str, value: bytes) -> None:
        """Keep one value for a user who has events, instead of any other."""

    @abstractmethod
    def recall(self, user: str, key: str) -> bytes | None:
        """What was remembered under this very key; None otherwise."""

    @abstractmethod
    def forget(self, user: str) -> int:
        """Delete all of a user; how many events that were."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""


def open_store(url: str | None) -> HistoryStore | None:
    """Open the store that a URL names; None for None or an empty URL.

    Raises:
        UserError: the URL is none of those above, or the store cannot be used.
    """
    if not url:
        return None
    scheme = urlsplit(url).scheme
    if scheme in SQLITE:
        path = url.removeprefix(f"{scheme}:///")
        if path in (url, ""):
            raise _refusal("This URL names no file.", scheme)
        return SqliteStore(Path(path))
    if scheme in REDIS:
        return RedisStore(url)
    raise _refusal("Histories are kept in SQLite or Redis only.", scheme)


def _refusal(what: str, scheme: str) -> UserError:
    # Not the URL itself: it may hold a password.
    return UserError(
        what,
        f"{HISTORY_VARIABLE}, scheme {scheme!r}",
        "Give sqlite:///FILE, sqlite:////FOLDER/FILE or redis://HOST:PORT",
    )


class SqliteStore(HistoryStore):
    """Events in one SQLite file, written ahead (WAL), so that readers never wait.

    What is committed survives the death of the process; after a loss of power the last moments may be missing.
    Deleted rows are overwritten with zeros.

    Raises:
        UserError: the file cannot be made or is no store of ours.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # one connection, one thread at a time: a call takes far less than a millisecond
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # other users of the machine may not read it
            self._connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"The history store cannot be opened: {error}.", str(path), "Name a file in a folder you may write to."
            ) from error

    def add(self, user: str, events: Sequence[StoredEvent]) -> int:
        """Keep events in one transaction."""
        with self._transaction() as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT OR IGNORE INTO events (user, time, item) VALUES (?, ?, ?)",
                [(user, event.timestamp, event.item_id) for event in events],
            )
            added = connection.total_changes - before
            if added:
                connection.execute(
                    "DELETE FROM events WHERE place IN (SELECT place FROM events WHERE user = ? "
                    "ORDER BY time DESC, place DESC LIMIT -1 OFFSET ?)",
                    (user, MAX_HISTORY),
                )
                connection.execute("DELETE FROM remembered WHERE user = ?", (user,))
        return added

    def history(self, user: str) -> list[StoredEvent]:
        """By time, then by arrival."""
        return [
            StoredEvent(*row)
            for row in self._rows("SELECT item, time FROM events WHERE user = ? ORDER BY time, place", (user,))
        ]

    def remember(self, user: str, key: str, value: bytes) -> None:
        """Only if the user has events at this very moment."""
        self._rows(
            "INSERT OR REPLACE INTO remembered SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM events WHERE user = ?)",
            (user, key, value, user),
        )

    def recall(self, user: str, key: str) -> bytes | None:
        """One look-up."""
        rows = self._rows("SELECT value FROM remembered WHERE user = ? AND key = ?", (user, key))
        return rows[0][0] if rows else None

    def forget(self, user: str) -> int:
        """Rows are zeroed, and the log that still holds them is emptied if nobody reads it now."""
        with self._transaction() as connection:
            events = connection.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
            connection.execute("DELETE FROM remembered WHERE user = ?", (user,))
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)", ())
        return events

    def close(self) -> None:
        """Close the file; the last process to do so empties its log."""
        with self._lock:
            self._connection.close()

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock, _available(sqlite3.Error):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing; other writers wait."""
        with self._lock, _available(sqlite3.Error):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise


class RedisStore(HistoryStore):
    """Events in Redis: a sorted set for each user, changed by scripts that run as one step.

    How long they last is up to the server's configuration: its files on disk forget a user when it next writes them.

    Raises:
        UserError: the package `redis` is not installed, or the server does not answer.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ModuleNotFoundError as error:
            raise UserError(
                "The package redis is not installed.", HISTORY_VARIABLE, "pip install 'prismrec[redis]'"
            ) from error
        self._errors = redis.RedisError
        try:
            again = Retry(NoBackoff(), 1)  # on a new connection, at once: the server may have been started anew
            self._client = redis.Redis.from_url(url, socket_timeout=WAIT, socket_connect_timeout=WAIT, retry=again)
            self._client.ping()
        except (redis.RedisError, ValueError) as error:
            raise UserError(
                "Redis does not answer.", HISTORY_VARIABLE, "Is it running, and are host, port and password right?"
            ) from error
        self._add, self._remember, self._forget = map(self._client.register_script, (ADD, REMEMBER, FORGET))

    def add(self, user: str, events: Sequence[StoredEvent]) -> int:
        """Keep events in one step."""
        arguments = [value for event in events for value in (event.timestamp, event.item_id)]
        with _available(self._errors):
            return int(self._add(keys=_keys(user), args=[MAX_HISTORY, *arguments]))

    def history(self, user: str) -> list[StoredEvent]:
        """By time, then by arrival."""
        with _available(self._errors):
            members: Any = self._client.zrange(_keys(user)[0], 0, -1)
        pairs = (member.decode().split(":", 1) for member in members)
        return [StoredEvent(item, int(time)) for time, item in pairs]

    def remember(self, user: str, key: str, value: bytes) -> None:
        """Only if the user has events at this very moment."""
        with _available(self._errors):
            self._remember(keys=_keys(user), args=[key, value])

    def recall(self, user: str, key: str) -> bytes | None:
        """One look-up."""
        with _available(self._errors):
            found: Any = self._client.hmget(_keys(user)[1], ["key", "value"])
        kept: bytes | None = found[1]
        return kept if found[0] == key.encode() else None

    def forget(self, user: str) -> int:
        """Both keys in one step."""
        with _available(self._errors):
            return int(self._forget(keys=_keys(user)))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _keys(user: str) -> list[str]:
    """Names of a user's events and of what is remembered; the braces keep both on one node of a cluster."""
    return [f"prismrec:{kind}:{{{user}}}" for kind in ("events", "remembered")]


@contextlib.contextmanager
def _available(errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise StoreUnavailable from error
