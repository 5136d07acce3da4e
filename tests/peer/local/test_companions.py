"""Programs beside the platform, on a state directory where nothing else runs."""

import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.errors import PlatformError
from peer.local.companions import Companion
from peer.local.platform import Platform
from peer.local.processes import has_ended
from peer.store.retry import Patience, poll
from peer.store.servers import LOOPBACK, free_port


def server(port: int) -> list[str]:
    return [sys.executable, "-m", "http.server", str(port), "--bind", LOOPBACK]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    (tmp_path / "state").mkdir()
    platform = Platform(tmp_path / "state")
    yield platform
    platform.down(print)


def test_companion_is_recorded_kept_and_ended_by_down(platform: Platform) -> None:
    said: list[str] = []
    companion = Companion("page", free_port(), server)

    url = platform.accompany(companion, said.append)
    again = platform.accompany(companion, said.append)
    process = platform.state().companions["page"].process
    platform.down(said.append)

    assert again == url
    assert said == [f"page      {url}", f"page      {url}  (ran already)", "page ended"]
    assert has_ended(process)


def test_companion_whose_port_is_taken_takes_another_and_says_so(platform: Platform) -> None:
    said: list[str] = []
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        url = platform.accompany(Companion("page", port, server), said.append)

    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.status == 200
    assert not url.endswith(f":{port}")
    assert said[0].startswith(f"port {port} is in use: the page takes ")


def test_companion_that_was_killed_comes_back_where_it_was(platform: Platform) -> None:
    companion = Companion("page", free_port(), server)
    url = platform.accompany(companion, print)
    process = platform.state().companions["page"].process
    os.kill(process.pid, signal.SIGKILL)
    poll(lambda: has_ended(process) or None, Patience(total_seconds=10.0))

    again = platform.accompany(companion, print)

    assert again == url
    assert platform.state().companions["page"].process != process


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ([sys.executable, "-c", "raise SystemExit('no such thing')"], "no such thing"),
        (["/nowhere/program"], "cannot be started"),
    ],
)
def test_companion_that_does_not_start_is_an_error_that_says_why(
    platform: Platform, command: list[str], text: str
) -> None:
    with pytest.raises(PlatformError, match=text):
        platform.accompany(Companion("page", free_port(), lambda _port: command), print)

    assert all(has_ended(part.process) for part in platform.state().companions.values())
