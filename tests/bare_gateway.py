"""A server before a real gateway that tells of an OOM kill as other gateways do: a bare 502, or a reset."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import requests

Telling = Literal["502", "reset"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    behind: str
    telling: Telling
    num_kills = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {
            name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers
        }
        reply = requests.request(
            self.command, f"{self.server.behind}{self.path}", data=body, headers=headers, timeout=120
        )
        if reply.status_code == 507:
            self.server.num_kills += 1
            if self.server.telling == "reset":
                self._reset()
                return
            self._answer(502, b"")
        else:
            self._answer(reply.status_code, reply.content)

    do_GET = do_PUT = do_POST

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@contextmanager
def before(gateway: str, telling: Telling) -> Iterator[_Server]:
    """Give a server that hands everything on to a gateway and back, but for the news of a kill."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.behind, server.telling = gateway, telling
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
