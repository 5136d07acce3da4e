"""A Docker daemon that is away, or whose replies are lost: a socket in front of the real one."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

DAEMON = "/var/run/docker.sock"
_BUFFER_BYTES = 1 << 16


class DaemonInBetween:
    """Listens at a unix socket and passes on what is said, as long as it is told to.

    `lose_reply_to` holds a part of a request such as `/start`: the daemon gets the next one that has it, and
    whoever asked gets a closed connection.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.lose_reply_to = b""
        self._is_away = False
        self._open: set[socket.socket] = set()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def go_away(self) -> None:
        """Close every connection, and those to come."""
        self._is_away = True
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        """Take connections again."""
        self._is_away = False

    def __enter__(self) -> "DaemonInBetween":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_away()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self._is_away:
                    client.close()
                    continue
                daemon = socket.socket(socket.AF_UNIX)
                daemon.connect(DAEMON)
                self._open |= {client, daemon}
                lost = threading.Event()
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, daemon, lost), daemon=True).start()

    def _ask(self, client: socket.socket, daemon: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(_BUFFER_BYTES):
                if self.lose_reply_to and self.lose_reply_to in data:
                    self.lose_reply_to = b""
                    lost.set()
                daemon.sendall(data)
        with suppress(OSError):
            daemon.shutdown(socket.SHUT_WR)

    def _answer(self, client: socket.socket, daemon: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := daemon.recv(_BUFFER_BYTES):
                if lost.is_set():
                    break
                client.sendall(data)
        self._open -= {client, daemon}
        for connection in (client, daemon):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
