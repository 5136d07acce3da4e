"""The function server: `function.handler.handle` behind HTTP, one call at a time, or `max_inflight` of them.

It listens at the socket that is descriptor 3 (LISTEN_FDS, as in systemd's socket activation), else at TCP
port `port` (8080). `/_/health` says that it runs, `/_/ready` whether it takes calls; every other path is a
call. While as many run as may, others are answered 429 at once. SIGTERM lets running calls end and their
replies leave, then the server ends.
"""

import json
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flask import Flask, Response, make_response, request
from waitress.server import create_server

_OUT_OF_MEMORY_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "could not create a primitive",  # what oneDNN says of an allocation that fails
)
_LISTEN_FD = 3
_PORT_VARIABLE = "port"
_MAX_INFLIGHT_VARIABLE = "max_inflight"
_DEFAULT_PORT = 8080
# Besides those that wait for the handler: they say meanwhile that it is busy, and whether it is healthy.
_NUM_SPARE_THREADS = 3
_MOST_CALLS = 100
_DRAIN_SECONDS = 2.0
_MAX_IDLE_SECONDS = 7 * 24 * 3600

_log = logging.getLogger("function")


class Event:
    """One request; `headers` and `query` are werkzeug's multi-dictionaries."""

    def __init__(self, body: bytes, headers: Any, method: str, query: Any, path: str) -> None:
        self.body = body
        self.headers = headers
        self.method = method
        self.query = query
        self.path = path


class Context:
    """Where the call runs."""

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname


class FunctionServer:
    """A handler, whether it is busy, and whether the server is about to end.

    The handler runs in the main thread: glibc lets only that one's arena grow without bound, so only there
    does it keep large blocks that were freed. Other threads' arenas map and unmap them at every use, many
    times slower. Where several calls may run at once, each does in the thread that has received it.
    """

    def __init__(self, handle: Callable[[Event, Context], Any], max_calls: int) -> None:
        self._handle = handle
        self._max_calls = max_calls
        self._free = threading.Semaphore(max_calls)
        self._is_ending = False
        self._context = Context(os.environ.get("HOSTNAME") or socket.gethostname())
        # Under localfaas a limit counts from here: what a fork shares with its parent is not the function's.
        limit = os.environ.get("LOCALFAAS_MEMORY_LIMIT_BYTES")
        self._limit_bytes = int(limit) if limit else None
        self._base_bytes = _peak_bytes() if limit else 0
        self._calls: queue.SimpleQueue[tuple[Event, Future[Any]] | None] = queue.SimpleQueue()

    def create_app(self) -> Flask:
        """Return the WSGI application."""
        app = Flask("function", static_folder=None)
        # Not by routes: every other path and verb is the handler's, and compiling rules delays a cold start.
        app.before_request(self._route)
        return app

    def run(self) -> None:
        """Run calls in this thread, one after the other, until `end` and what was running then."""
        while (call := self._calls.get()) is not None:
            event, result = call
            try:
                result.set_result(self._handle(event, self._context))
            except Exception as error:
                # The boundary of the handler: whatever it raises becomes an answer.
                result.set_exception(error)
        for _ in range(self._max_calls if self._max_calls > 1 else 0):
            self._free.acquire()

    def end(self, *_: object) -> None:
        """Take no more calls; a signal handler."""
        self._is_ending = True
        self._calls.put(None)

    def _route(self) -> Response:
        if request.path == "/_/health":
            return Response("OK\n")
        if request.path == "/_/ready":
            return Response(status=503) if self._is_ending else Response("OK\n")
        return self._answer()

    def _answer(self) -> Response:
        if self._is_ending or not self._free.acquire(blocking=False):
            return _error(429, "busy", "the function runs as many calls as it may", {"Retry-After": "1"})
        try:
            body = request.get_data(cache=False)
            event = Event(body, request.headers, request.method, request.args, request.path)
            if self._max_calls > 1:
                return _to_response(self._handle(event, self._context))
            result: Future[Any] = Future()
            self._calls.put((event, result))
            return _to_response(result.result())
        except Exception as error:
            if isinstance(error, MemoryError) or _is_allocation_failure(error):
                return self._out_of_memory(error)
            _log.exception("the handler failed")
            return _error(500, "internal", f"{type(error).__name__}: {error}")
        finally:
            self._free.release()

    def _out_of_memory(self, error: Exception) -> Response:
        peak_bytes = _peak_bytes() - self._base_bytes
        _log.error("out of memory: peak %d bytes, limit %s: %s", peak_bytes, self._limit_bytes, error)
        return _error(
            507,
            "out_of_memory",
            "the call does not fit the memory limit; raise limits.memory, or send less",
            limit_bytes=self._limit_bytes,
            peak_bytes=peak_bytes,
            function=os.environ.get("OPENFAAS_NAME", ""),
            replica=os.environ.get("HOSTNAME", ""),
        )


def _max_calls(max_inflight: str) -> int:
    """Return how many calls may run at once; `0`, for no limit, is 100."""
    return int(max_inflight or 1) or _MOST_CALLS


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait_written(server: Any) -> None:
    """Return once every reply has left, or after two seconds."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline and _is_writing(server):
        time.sleep(0.005)


def _is_writing(server: Any) -> bool:
    channels = list(server.active_channels.values())
    return any(channel.requests or channel.total_outbufs_len for channel in channels)


def _is_allocation_failure(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


def _to_response(result: Any) -> Response:
    """Return the reply for {"statusCode", "body", "headers"}, or for whatever Flask takes."""
    if not isinstance(result, dict) or not result.keys() & {"statusCode", "body", "headers"}:
        return make_response("" if result is None else result)
    body = result.get("body", "")
    response = make_response(body if isinstance(body, bytes | str) else json.dumps(body))
    if not isinstance(body, bytes | str):
        response.content_type = "application/json"
    elif isinstance(body, bytes):
        response.content_type = "application/octet-stream"
    response.status_code = result.get("statusCode", 200)
    response.headers.update(result.get("headers") or {})
    return response


def _error(
    status: int, kind: str, message: str, headers: dict[str, str] | None = None, **fields: object
) -> Response:
    body = json.dumps({"error": kind, "message": message, **fields})
    return Response(body, status, headers, content_type="application/json")


def main() -> None:
    """Serve the handler until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # It warns of every request that comes while its threads are still starting.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # After the installed packages: what a function carries along is for where they are not installed.
    sys.path.append(str(Path(__file__).resolve().parent / "function"))
    from function.handler import handle

    max_calls = _max_calls(os.environ.get(_MAX_INFLIGHT_VARIABLE, ""))
    function_server = FunctionServer(handle, max_calls)
    if os.environ.get("LISTEN_FDS"):
        address: dict[str, Any] = {"sockets": [socket.socket(fileno=_LISTEN_FD)]}
    else:
        address = {"host": "0.0.0.0", "port": int(os.environ.get(_PORT_VARIABLE, _DEFAULT_PORT))}
    server = create_server(
        function_server.create_app(),
        **address,
        threads=max_calls + _NUM_SPARE_THREADS,
        channel_timeout=_MAX_IDLE_SECONDS,
        asyncore_use_poll=True,
        clear_untrusted_proxy_headers=False,
        ident=None,
    )

    signal.signal(signal.SIGTERM, function_server.end)
    threading.Thread(target=server.run, daemon=True).start()
    function_server.run()
    _wait_written(server)


if __name__ == "__main__":
    main()
