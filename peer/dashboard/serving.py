"""The page's server: everything put together, until a signal."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from a2wsgi import WSGIMiddleware

from peer.dashboard.app import create_app
from peer.dashboard.board import Board
from peer.dashboard.collector import Collector
from peer.dashboard.events import EventStream
from peer.dashboard.guard import Access, AsgiApp, Guard
from peer.dashboard.sources import Places
from peer.dashboard.targets import targets
from peer.errors import PlatformError

_THREADS = 4
_BACKLOG = 128


@dataclass(frozen=True)
class Listening:
    """Where the page listens: a socket, and the address that a browser on this machine takes."""

    socket: socket.socket
    url: str


def listen(host: str, port: int, *, is_port_fixed: bool) -> Listening:
    """Return a listening socket; another port is taken if this one is in use and not fixed.

    Raises:
        PlatformError: the port is in use, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (port,) if is_port_fixed else (port, 0):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise PlatformError(
                    f"the page cannot listen at {host}:{candidate}: {error.strerror}; give another --host"
                ) from error
        else:
            return Listening(listening, _url(host, listening.getsockname()[1]))
    raise PlatformError(f"port {port} of {host} is in use: give another --port, or 0 for any")


def serve(listening: Listening, places: Places, access: Access, on_ready: Callable[[], None]) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        listening: its socket is closed at the end.
        places: what is shown.
        access: who may read.
        on_ready: called once the page answers.
    """
    asyncio.run(_serve(listening, places, access, on_ready))


async def _serve(listening: Listening, places: Places, access: Access, on_ready: Callable[[], None]) -> None:
    board = Board()
    collector = Collector(places, board.publish)
    events = EventStream(board, collector.watch)
    app: Any = create_app(board, lambda: targets(collector.living()), collector.watch)
    rest = cast(AsgiApp, WSGIMiddleware(app, workers=_THREADS))
    config = uvicorn.Config(
        Guard(access, {"/api/events": events}, rest),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    collector.start()
    try:
        await _Server(config, events, on_ready).serve(sockets=[listening.socket])
    finally:
        collector.stop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, events: EventStream, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._events = events
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End gracefully at SIGTERM and SIGINT; the original raises them again afterwards."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        self._events.close()
        self.handle_exit(number, None)


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
