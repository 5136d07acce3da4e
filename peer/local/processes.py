"""Background processes that outlive the command that started them, known by id and start time.

A process id alone may belong to another process by now; with the time it started, from `/proc`, it cannot.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from peer.errors import PlatformError
from peer.messages import Message
from peer.store.retry import Patience, poll, retry
from peer.store.servers import LOOPBACK, free_port, is_port_free

Say = Callable[[str], None]

_AT_ONCE = Patience(total_seconds=0.0)
# Running requests have 10 s to end, then containers are removed one after the other.
_GRACE = Patience(total_seconds=30.0, first_seconds=0.01, longest_seconds=0.1)
_PORT_RETURNS = Patience(total_seconds=5.0, longest_seconds=0.1)
_START_TIME_FIELD = 19
_STATE_FIELD = 0


class Process(Message, frozen=True):
    """A process of this machine since it last booted."""

    pid: int
    start_ticks: int


class _Running(PlatformError):
    """A process that was told to end runs still."""

    retryable = True


def identify(pid: int) -> Process:
    """Return the process that has this id now.

    Raises:
        PlatformError: there is none.
    """
    fields = _stat(pid)
    if fields is None:
        raise PlatformError(f"process {pid} has ended already")
    return Process(pid, int(fields[_START_TIME_FIELD]))


def has_ended(process: Process) -> bool:
    """Return whether this very process runs no more."""
    fields = _stat(process.pid)
    return (
        fields is None or fields[_STATE_FIELD] == "Z" or int(fields[_START_TIME_FIELD]) != process.start_ticks
    )


def end(process: Process) -> None:
    """End a process: SIGTERM, and SIGKILL if it goes on for 30 s. Returns when it is gone.

    Raises:
        PlatformError: it does not end.
        PermissionError: it is another user's.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if has_ended(process):
            return
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
        try:
            retry(lambda: _check_ended(process), _GRACE)
        except _Running:
            continue
        return
    raise PlatformError(f"process {process.pid} does not end, not even by SIGKILL")


def port_for(what: str, wanted: int, before: str | None, say: Say, host: str = LOOPBACK) -> int:
    """Return a free port: the one it had before, for those who look for it there, else the wanted one."""
    port = int(before.rpartition(":")[2]) if before else wanted
    # a killed process gives its port back a moment after it is gone
    if poll(lambda: is_port_free(host, port) or None, _PORT_RETURNS if before else _AT_ONCE):
        return port
    another = free_port(host, after=port)
    say(f"port {port} is in use: the {what} takes {another}")
    return another


def log_tail(path: Path) -> str:
    """Return the last lines of a process' log as one line, and where the rest is."""
    lines = path.read_text(errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-3:]) + f" (see {path})"


def _check_ended(process: Process) -> None:
    if not has_ended(process):
        raise _Running(f"process {process.pid} still runs")


def _stat(pid: int) -> list[str] | None:
    """Return the fields of `/proc/<pid>/stat` after the command's name; None without such a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
