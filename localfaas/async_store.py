"""Asynchronous calls on disk: an SQLite database that a `kill -9` of the gateway does not harm."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from localfaas.errors import ConfigurationError, QueueStorageFailed
from localfaas.storage import storage_full
from localfaas.upstream import Headers

_Result = TypeVar("_Result")

_AUTO_VACUUM_FULL = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    call_id TEXT NOT NULL, function TEXT NOT NULL, method TEXT NOT NULL, path BLOB NOT NULL,
    headers TEXT NOT NULL, body BLOB NOT NULL, callback_url TEXT NOT NULL, enqueued_at REAL NOT NULL,
    attempts INTEGER NOT NULL, due_at REAL NOT NULL,
    status INTEGER, result_headers TEXT, result BLOB
)
"""


@dataclass(frozen=True)
class AsyncCall:
    """A request to `/async-function/<name>`, as it is to be passed to the function."""

    call_id: str
    function: str
    method: str
    path: bytes
    headers: Headers
    body: bytes = field(repr=False)
    callback_url: str
    """Where the result goes; empty for nowhere."""


@dataclass(frozen=True)
class CallResult:
    """What the function answered."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)


@dataclass
class CallEntry:
    """What is remembered of a call in memory; times are seconds since 1970, which survive a restart."""

    number: int
    function: str
    enqueued_at: float
    num_attempts: int
    """Of the invocation, or of the callback once there is a result."""

    due_at: float
    has_result: bool = False


class CallStore:
    """The calls that have not been answered yet. Every change is on disk when its method returns."""

    def __init__(self, path: Path) -> None:
        """Open the database, made if it is not there.

        Raises:
            ConfigurationError: it cannot be opened, or is damaged.
            StorageFull: it is not there, and the disk has no room for it.
        """
        self._directory = path.parent
        # One thread: a commit waits for the disk, which the event loop must not.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="async-store")
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False)
            self._prepare()
        except sqlite3.Error as error:
            if _is_disk_full(error):
                raise storage_full(path.parent, "the queue of asynchronous calls") from error
            raise ConfigurationError(
                f"the queue of asynchronous calls cannot be opened ({error}): move {path} away to begin anew"
            ) from error

    def _prepare(self) -> None:
        """Make the database what it has to be; one that is so already is only read, also on a full disk."""
        execute = self._connection.execute
        # Nobody else opens it, so it needs no index in shared memory, for which there may be no room.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        if execute("PRAGMA auto_vacuum").fetchone() != (_AUTO_VACUUM_FULL,):
            execute(f"PRAGMA auto_vacuum = {_AUTO_VACUUM_FULL}")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        with self._connection:
            execute(_SCHEMA)

    async def add(self, call: AsyncCall, now: float) -> CallEntry:
        """Return the entry of a call that is kept from now on.

        Raises:
            StorageFull: the disk has no room for it.
            QueueStorageFailed: it is not kept. Every other method raises these two, and changes nothing then.
        """
        row = (
            call.call_id,
            call.function,
            call.method,
            call.path,
            _to_json(call.headers),
            call.body,
            call.callback_url,
            now,
            now,
        )

        def insert(connection: sqlite3.Connection) -> int | None:
            return connection.execute(
                "INSERT INTO calls (call_id, function, method, path, headers, body, callback_url, "
                "enqueued_at, attempts, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
                row,
            ).lastrowid

        number = await self._do(insert)
        return CallEntry(number or 0, call.function, now, 0, now)

    async def entries(self) -> list[CallEntry]:
        """Return every call, oldest first."""
        columns = "number, function, enqueued_at, attempts, due_at, status IS NOT NULL"
        rows = await self._do(
            lambda connection: connection.execute(f"SELECT {columns} FROM calls ORDER BY number").fetchall()
        )
        return [CallEntry(row[0], row[1], row[2], row[3], row[4], bool(row[5])) for row in rows]

    async def read(self, number: int) -> tuple[AsyncCall, CallResult | None]:
        """Return a call, and its result if the function has given one."""
        columns = (
            "call_id, function, method, path, headers, body, callback_url, status, result_headers, result"
        )
        row = await self._do(
            lambda connection: connection.execute(
                f"SELECT {columns} FROM calls WHERE number = ?", (number,)
            ).fetchone()
        )
        if row is None:
            raise QueueStorageFailed(f"asynchronous call {number} is not in the queue any more")
        call = AsyncCall(row[0], row[1], row[2], row[3], _from_json(row[4]), row[5], row[6])
        return call, None if row[7] is None else CallResult(row[7], _from_json(row[8]), row[9])

    async def postpone(self, entry: CallEntry) -> None:
        """Keep the entry's number of attempts, and when the next is due."""
        values = (entry.num_attempts, entry.due_at, entry.number)
        await self._do(
            lambda connection: connection.execute(
                "UPDATE calls SET attempts = ?, due_at = ? WHERE number = ?", values
            )
        )

    async def finish(self, number: int, result: CallResult) -> None:
        """Keep a call's result for its callback, and its body no longer."""
        values = (result.status, _to_json(result.headers), result.body, number)
        await self._do(
            lambda connection: connection.execute(
                "UPDATE calls SET status = ?, result_headers = ?, result = ?, body = x'', attempts = 0, "
                "due_at = 0 WHERE number = ?",
                values,
            )
        )

    async def remove(self, number: int) -> None:
        """Forget a call that has been answered."""
        await self._do(lambda connection: connection.execute("DELETE FROM calls WHERE number = ?", (number,)))

    async def close(self) -> None:
        """Close the database, once what was asked for before is done."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _do(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        def transact() -> _Result:
            with self._connection:
                return work(self._connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transact)
        except sqlite3.Error as error:
            if _is_disk_full(error):
                raise storage_full(self._directory, "the queue of asynchronous calls") from error
            raise QueueStorageFailed(f"the queue of asynchronous calls cannot be used: {error}") from error


def _is_disk_full(error: sqlite3.Error) -> bool:
    # The number of an error of another module of ours is not there: the library has not been asked.
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _to_json(headers: Headers) -> str:
    return json.dumps([[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers])


def _from_json(text: str) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(text)]
