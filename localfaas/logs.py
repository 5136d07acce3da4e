"""What functions write to stdout and stderr, kept for `/system/logs`."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from localfaas.log_file import LogFile
from localfaas.namespaces import DEFAULT_NAMESPACE, FunctionName

_MAX_LINES = 10_000
_MAX_BYTES = 4 << 20
_MAX_FOLLOWER_LINES = 1_000


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of one replica, or of the gateway about it; timestamps are UTC."""

    function: FunctionName
    instance: str
    timestamp: datetime
    text: str

    def to_json(self) -> str:
        """Return the line as OpenFaaS' log message, a JSON object on one line with its newline."""
        message = {
            "name": self.function.service,
            "namespace": self.function.namespace,
            "instance": self.instance,
            "timestamp": self.timestamp.isoformat().replace("+00:00", "Z"),
            "text": self.text,
        }
        return json.dumps(message) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "LogLine":
        """Return the line that `to_json` wrote.

        Raises:
            ValueError, KeyError: it is none, for instance cut off by a crash.
        """
        fields = json.loads(text)
        function = FunctionName(fields["name"], fields.get("namespace", DEFAULT_NAMESPACE))
        timestamp = datetime.fromisoformat(fields["timestamp"])
        return cls(function, fields["instance"], timestamp, fields["text"])


class FunctionLog:
    """The last lines of one function: in memory, in a file, and to whoever follows.

    Memory is bounded by 10,000 lines and 4 MiB, the disk by two files of 8 MiB; a follower that does not read
    loses its oldest lines. A disk that is full loses what it does not take: followers and memory have it.
    """

    def __init__(self, function: FunctionName, path: Path) -> None:
        self._function = function
        self._file = LogFile(path)
        self._lines: deque[LogLine] = deque()
        self._num_bytes = 0
        self._followers: set[asyncio.Queue[LogLine | None]] = set()
        for line in _readable_lines(self._file.read()):
            self._remember(line)

    def of(self, instance: str) -> "ReplicaLog":
        """Return the part of the log that the replica `instance` writes."""
        return ReplicaLog(self, instance)

    def append(self, instance: str, text: str, written_at: datetime | None = None) -> None:
        """Add one line, written now unless it says otherwise; followers are woken."""
        line = LogLine(self._function, instance, written_at or datetime.now(UTC), text)
        self._remember(line)
        self._file.write(line.to_json())
        for queue in self._followers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(line)

    def lines(self, *, since: datetime | None = None, tail: int = 0, instance: str = "") -> list[LogLine]:
        """Return the kept lines, oldest first: from `since` on, and of those the last `tail` (0: all)."""
        found = [
            line
            for line in self._lines
            if (since is None or line.timestamp >= since) and instance in ("", line.instance)
        ]
        return found[-tail:] if tail > 0 else found

    def follow(self, instance: str = "") -> AsyncGenerator[LogLine, None]:
        """Return the lines added from now on, until the log is closed; to be iterated over, or closed."""
        queue: asyncio.Queue[LogLine | None] = asyncio.Queue(_MAX_FOLLOWER_LINES)
        self._followers.add(queue)
        return self._drain(queue, instance)

    async def _drain(
        self, queue: "asyncio.Queue[LogLine | None]", instance: str
    ) -> AsyncGenerator[LogLine, None]:
        try:
            while (line := await queue.get()) is not None:
                if instance in ("", line.instance):
                    yield line
        finally:
            self._followers.discard(queue)

    def stop_following(self) -> None:
        """End every `follow`."""
        for queue in self._followers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    def close(self) -> None:
        """End every `follow`; the files stay."""
        self.stop_following()
        self._file.close()

    def remove(self) -> None:
        """End every `follow`, and leave no file."""
        self.stop_following()
        self._file.remove()

    def _remember(self, line: LogLine) -> None:
        self._lines.append(line)
        self._num_bytes += len(line.text)
        while len(self._lines) > _MAX_LINES or self._num_bytes > _MAX_BYTES:
            self._num_bytes -= len(self._lines.popleft().text)


@dataclass(frozen=True)
class ReplicaLog:
    """What one replica writes, in the log of its function."""

    log: FunctionLog
    instance: str

    @property
    def last_at(self) -> datetime | None:
        """When the last line of it that is kept was written."""
        lines = self.log.lines(instance=self.instance, tail=1)
        return lines[0].timestamp if lines else None

    def append(self, text: str, written_at: datetime | None = None) -> None:
        """Add one line, written now unless it says otherwise."""
        self.log.append(self.instance, text, written_at)


def _readable_lines(texts: Iterable[str]) -> Iterable[LogLine]:
    for text in texts:
        with suppress(ValueError, KeyError, TypeError):
            yield LogLine.from_json(text)
