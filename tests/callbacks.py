"""Where the results of asynchronous calls go in tests."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """An HTTP server that takes callbacks, or refuses the first few."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.num_to_refuse = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if receiver.num_to_refuse:
                    receiver.num_to_refuse -= 1
                    self.send_response(302)
                    self.send_header("Location", "/elsewhere")
                else:
                    receiver.taken.append(({k.lower(): v for k, v in self.headers.items()}, body))
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/results"

    @property
    def ids(self) -> list[str]:
        return [headers["x-call-id"] for headers, _ in self.taken]
