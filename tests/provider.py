"""A provider that is a fake at the wire: it describes one function, and takes updates of it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

DESCRIPTION = {
    "name": "gradient",
    "image": "peerless/gradient:1",
    "namespace": "openfaas-fn",
    "envVars": {"OMP_NUM_THREADS": "1"},
    "labels": {"com.openfaas.scale.max": "5", "faas_function": "gradient"},
    "annotations": {"topic": "x"},
    "limits": {"memory": "2Gi", "cpu": "1"},
    "requests": {"memory": "256Mi", "cpu": "500m"},
    "invocationCount": 7,
    "replicas": 2,
    "availableReplicas": 2,
    "createdAt": "2026-01-01T00:00:00Z",
}


class Provider(HTTPServer):
    description: dict[str, Any]
    refusal: tuple[int, str] | None = None
    num_updates = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        self._answer(200, json.dumps(self.server.description).encode())

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refusal is not None:
            status, text = self.server.refusal
            return self._answer(status, text.encode())
        kept = {key: self.server.description[key] for key in ("replicas", "availableReplicas")}
        body["labels"]["faas_function"] = body["service"]
        self.server.description = {"name": body.pop("service"), **body, **kept}
        self.server.num_updates += 1
        return self._answer(202, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Provider]:
    """A provider that serves while the block runs."""
    provider = Provider(("127.0.0.1", 0), Handler)
    provider.description = json.loads(json.dumps(DESCRIPTION))
    thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        provider.shutdown()
        thread.join()
        provider.server_close()
