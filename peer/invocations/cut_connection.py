"""A connection of `requests` that another thread may cut, so that whoever waits for its reply is woken."""

import contextlib
import socket
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class Line:
    """The newest connection of a session that has one at a time. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._is_cut = False

    def restore(self) -> None:
        """Let requests through again, those after this call."""
        with self._lock:
            self._is_cut = False

    def cut(self) -> None:
        """End the request under way, and any other until `restore`, with the error of a lost connection."""
        with self._lock:
            self._is_cut = True
            if self._connection is not None:
                _shut_down(self._connection)

    def opened(self, connection: HTTPConnection) -> None:
        """Take note of a connection that has just been made."""
        with self._lock:
            self._connection = connection
            if self._is_cut:
                _shut_down(connection)


class CuttableAdapter(HTTPAdapter):
    """Sends requests over connections that `line` can cut."""

    def __init__(self, line: Line) -> None:
        self._line = line
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        """Make the pools of connections; called by the base class."""
        super().init_poolmanager(*arguments, **settings)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _with(self._line, HTTPConnectionPool, _Connection),
            "https": _with(self._line, HTTPSConnectionPool, _SecureConnection),
        }


class _Connection(HTTPConnection):
    line: Line

    def connect(self) -> None:
        super().connect()
        self.line.opened(self)


class _SecureConnection(HTTPSConnection):
    line: Line

    def connect(self) -> None:
        super().connect()
        self.line.opened(self)


def _with(line: Line, pool: type, connection: type) -> type:
    """Return that kind of pool, of connections that a line takes note of."""
    noted = type(connection.__name__, (connection,), {"line": line})
    return type(pool.__name__, (pool,), {"ConnectionCls": noted})


def _shut_down(connection: HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        # of an encrypted connection, too, the plain one below; one that is closed already needs nothing
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
