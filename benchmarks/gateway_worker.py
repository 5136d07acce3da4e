"""The function of `gateway.py`: the least that an HTTP server can be, at the socket that is descriptor 3.

It answers every request with two bytes, a path with `sleep` after a second. One process serves any number of
connections, so that the same program is also what the gateway is compared with.
"""

import heapq
import selectors
import socket
import time
from typing import cast

_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_SLEEP_SECONDS = 1.0


def serve(listening: socket.socket) -> None:
    """Answer for ever; a request has to come in one piece."""
    poller = selectors.DefaultSelector()
    listening.setblocking(False)
    poller.register(listening, selectors.EVENT_READ)
    sleeping: list[tuple[float, int, socket.socket]] = []
    while True:
        patience = max(0.0, sleeping[0][0] - time.monotonic()) if sleeping else None
        for key, _ in poller.select(patience):
            if key.fileobj is listening:
                connection, _ = listening.accept()
                poller.register(connection, selectors.EVENT_READ)
                continue
            connection = cast(socket.socket, key.fileobj)
            try:
                request = connection.recv(1 << 16)
            except ConnectionError:
                request = b""
            if not request:
                poller.unregister(connection)
                connection.close()
            elif b"sleep" in request.partition(b"\r\n")[0]:
                heapq.heappush(sleeping, (time.monotonic() + _SLEEP_SECONDS, connection.fileno(), connection))
            else:
                connection.send(_REPLY)
        while sleeping and sleeping[0][0] <= time.monotonic():
            heapq.heappop(sleeping)[2].send(_REPLY)


if __name__ == "__main__":
    serve(socket.socket(fileno=3))
