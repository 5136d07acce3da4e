"""A client's connection: uvicorn's, with a bound on whatever a client may send or withhold.

A head above 64 KiB is a 431 and a URL above 16 KiB a 414, where memory would be used up otherwise. A client
that keeps the gateway waiting for its request, or does not take its reply, is let go after a while. One whose
connection is more than there may be is answered 503.
"""

import json
import logging
import resource
from dataclasses import dataclass
from itertools import chain
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from localfaas.answers import answer_error
from localfaas.errors import NotAccepting
from localfaas.invocation import Receive, Scope, Send

_log = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 1 << 16
_MAX_URL_BYTES = 1 << 14
# So much a second is what a client has to send, and never waits for.
_MIN_BYTES_PER_SECOND = 500.0
_SURPLUS_PATIENCE_SECONDS = 2.0
_WANTED_DESCRIPTORS = 1 << 16


@dataclass(frozen=True)
class ClientLimits:
    """What one client, and all of them together, may take."""

    patience_seconds: float
    """How long a client whose turn it is may send or take nothing, or less than 500 B/s."""

    max_connections: int


def raise_descriptor_limit() -> int:
    """Return how many descriptors this process may have open from now on: up to 65,536, if it may at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _WANTED_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


class ClientConnection(HttpToolsProtocol):
    """One connection; `check` has to be called now and then."""

    def __init__(self, *, limits: ClientLimits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._patience_seconds = limits.patience_seconds
        # Of the request that is coming: whether all of it is here, and how long that has been waited for.
        self._is_awaited = True
        self._is_in_head = True
        self._head_bytes = 0
        self._waited_seconds = 0.0
        self._stalled_seconds = 0.0
        self._refusal = 400, "this is no HTTP request"

    def check(self, seconds: float) -> None:
        """End the connection if its client has made the gateway wait too long.

        Args:
            seconds: since this was called last.
        """
        self._stalled_seconds = self._stalled_seconds + seconds if self.flow.write_paused else 0.0
        is_ours = self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue)
        if self._is_awaited and not is_ours:
            self._waited_seconds += seconds
        # It may have begun to wait just before this look.
        patience_seconds = self._patience_seconds + seconds
        if self._stalled_seconds > patience_seconds:
            self._abort()
        elif self._waited_seconds > patience_seconds:
            if self._is_in_head and self._head_bytes:
                self._refuse(408, "the request took too long")
            else:
                self._abort()

    def connection_made(self, transport: Any) -> None:
        """Take a connection; one too many will be answered 503."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._patience_seconds = min(_SURPLUS_PATIENCE_SECONDS, self._patience_seconds)
            self.app = _answer_too_many

    def eof_received(self) -> None:
        """Take the end of what a client sends for the client's end: nobody can tell one from the other."""
        self._disconnect()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._waited_seconds = max(0.0, self._waited_seconds - len(data) / _MIN_BYTES_PER_SECOND)
        if self._is_in_head:
            # Also what is no request yet, such as empty lines.
            self._is_awaited = True
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "the request's headers are too large")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._is_awaited = self._is_in_head = True
        self._waited_seconds = 0.0

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless its head alone is a reason to refuse it."""
        self._is_in_head = False
        self._head_bytes = 0
        num_bytes = sum(map(len, chain.from_iterable(self.headers))) + 4 * len(self.headers)
        if len(self.url) > _MAX_URL_BYTES:
            self._refusal = 414, "the request's URL is too long"
        elif num_bytes > _MAX_HEAD_BYTES:
            self._refusal = 431, "the request's headers are too large"
        elif [name for name, _ in self.headers].count(b"host") > 1:
            self._refusal = 400, "the request has more than one Host"
        elif self.parser.get_http_version() not in ("1.1", "1.0"):
            self._refusal = 505, "the request is of another version than HTTP/1.1"
        elif self.parser.should_upgrade():
            self._ignore_upgrade()
            return
        else:
            super().on_headers_complete()
            return
        raise httptools.HttpParserError(self._refusal[1])

    def on_message_complete(self) -> None:
        """Note that nothing is awaited until the next request."""
        super().on_message_complete()
        self._is_awaited = False
        self._is_in_head = True

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed; uvicorn calls this."""
        self._refuse(*self._refusal)

    def _refuse(self, status: int, message: str) -> None:
        """Answer and end the connection; only end it where a reply is under way already."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline:
                self._abort()
                return
            self._disconnect()
        body = json.dumps({"error": "bad_request", "message": message}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _ignore_upgrade(self) -> None:
        """Serve a request that offers another protocol, as any server may; it is the connection's last."""
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            self._refusal = 400, "no other protocol is spoken here; leave Upgrade out"
            raise httptools.HttpParserError(self._refusal[1])
        super().on_headers_complete()
        self.cycle.keep_alive = False

    def _abort(self) -> None:
        self._disconnect()
        self.transport.abort()

    def _disconnect(self) -> None:
        """Have the application find out now: until `connection_lost`, a write would be an error."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


async def _answer_too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """Say that there are too many connections, an ASGI application."""
    text = "too many connections are open; raise the gateway's limit of open files (`ulimit -n`)"
    await answer_error(send, NotAccepting(text), [(b"connection", b"close")])
