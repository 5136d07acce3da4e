"""Programs that run beside the platform and that no run needs: the live page, for instance.

A companion is started, recorded in `platform.json` and ended as store and gateway are. That it does not start
is an error of its own, which fails neither the platform nor a training.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from peer.errors import PlatformError
from peer.local.processes import Process, Say, log_tail, port_for
from peer.messages import Message
from peer.store.retry import Patience, poll
from peer.store.servers import LOOPBACK

_ANSWER_SECONDS = 5.0
_READY = Patience(total_seconds=60.0, first_seconds=0.05, longest_seconds=0.25)


class CompanionState(Message, frozen=True):
    """A companion that was started here."""

    url: str
    process: Process


@dataclass(frozen=True)
class Companion:
    """How to start a program that serves HTTP.

    Args:
        name: in `platform.json`, in messages, and of its log.
        port: the wanted one; another is taken, and said, if it is in use.
        command: the command line for a port.
        ready_path: answers a GET with 2xx once the program is ready.
    """

    name: str
    port: int
    command: Callable[[int], list[str]]
    ready_path: str = "/"


def start_companion(
    companion: Companion, before: CompanionState | None, log_path: Path, say: Say
) -> tuple[subprocess.Popen[bytes], str]:
    """Return the started process and its address, where it was before if that port is free.

    Raises:
        PlatformError: the program is not there, or is none.
    """
    port = port_for(companion.name, companion.port, before.url if before else None, say)
    try:
        with log_path.open("ab") as log_file:
            process = subprocess.Popen(
                companion.command(port),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise PlatformError(f"the {companion.name} cannot be started: {error}") from error
    return process, f"http://{LOOPBACK}:{port}"


def wait_for_companion(
    companion: Companion, process: subprocess.Popen[bytes], url: str, log_path: Path
) -> None:
    """Return once the companion answers.

    Raises:
        PlatformError: it has ended, or does not answer within a minute; the message has its log's last lines.
    """
    if not poll(lambda: _answers(process, url + companion.ready_path), _READY):
        raise PlatformError(f"the {companion.name} does not start: {log_tail(log_path)}")


def answers(url: str) -> bool:
    """Return whether a program answers a GET with 2xx, in five seconds."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(url, timeout=_ANSWER_SECONDS).ok
    except requests.RequestException:
        return False


def _answers(process: subprocess.Popen[bytes], url: str) -> bool | None:
    """Return True once it answers, None while it may, False when it has ended."""
    if process.poll() is not None:
        return False
    return answers(url) or None
