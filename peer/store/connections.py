"""Kept HTTP connections to object stores: replaced when stale, shared by threads, left behind at `fork`."""

import http.client
import os
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from peer.errors import StoreError, StoreUnreachable
from peer.store.addresses import Address, Addresses, Name
from peer.store.checksums import Buffer, slices
from peer.store.refusals import redacted

_LONGEST_REST_BYTES = 64 << 10


@dataclass(frozen=True)
class Timeouts:
    """Seconds until a connection counts as impossible, and without a byte until one counts as lost."""

    connect_seconds: float = 5.0
    read_seconds: float = 60.0


class Connections:
    """Idle connections by origin: never more than one for each thread that was inside a request at once.

    After an answer of 500 or more, or a lost connection, other addresses of the name are tried first.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._addresses = Addresses()
        self._idle: dict[tuple[str, str], list[_Connection]] = {}

    @contextmanager
    def response(
        self, method: str, url: str, headers: Mapping[str, str], chunks: Sequence[Buffer] = ()
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give the response to the block, which may read its body.

        A kept connection that the server has closed meanwhile is replaced, once. Redirects are not followed.

        Raises:
            StoreUnreachable: there is no connection, or it ended, here or inside the block.
            StoreError: the server's certificate is not trusted.
        """
        parts = urlsplit(url)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        headers = {"Host": parts.netloc, **headers}
        connection = self._take(parts.scheme, parts.netloc)
        is_reusable = False
        try:
            try:
                response = self._exchange(connection, method, target, headers, chunks)
            except _Stale:
                response = self._exchange(connection, method, target, headers, chunks)
            if response.status >= 500:
                self._turn_from(connection)
            try:
                yield response
            except StoreError:
                is_reusable = _is_reusable(response)
                raise
            is_reusable = _is_reusable(response)
        except ssl.SSLCertVerificationError as error:
            raise StoreError(
                f"{method} {redacted(url)}: the certificate is not trusted ({error.verify_message}); "
                "name its authority in SSL_CERT_FILE"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self._turn_from(connection)
            raise StoreUnreachable(
                f"{method} {redacted(url)}: {error or type(error).__name__}; is the store running?"
            ) from error
        finally:
            if is_reusable:
                self._keep(parts.scheme, parts.netloc, connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._reset()

    def _take(self, scheme: str, netloc: str) -> "_Connection":
        if self._process != os.getpid():
            self.close()  # closes this process's copies only; the parent's connections go on
        with self._lock:
            idle = self._idle.get((scheme, netloc))
            if idle:
                return idle.pop()
        return _Connection(scheme, netloc)

    def _keep(self, scheme: str, netloc: str, connection: "_Connection") -> None:
        with self._lock:
            self._idle.setdefault((scheme, netloc), []).append(connection)

    def _turn_from(self, connection: "_Connection") -> None:
        """Have the name's other addresses tried first."""
        self._addresses.turn_from(connection.name, connection.address)
        with self._lock:
            for idle in self._idle.values():
                for other in [each for each in idle if each.address == connection.address]:
                    idle.remove(other)
                    other.close()

    def _exchange(
        self,
        connection: "_Connection",
        method: str,
        target: str,
        headers: Mapping[str, str],
        chunks: Sequence[Buffer],
    ) -> http.client.HTTPResponse:
        is_kept = connection.sock is not None
        if not is_kept:
            connection.open(self._addresses, self._timeouts)
        try:
            return _send(connection, method, target, headers, chunks)
        except ConnectionError as error:
            connection.close()
            if is_kept:
                raise _Stale from error
            raise


class _Connection(http.client.HTTPConnection):
    """One to an origin; knows which of the name's addresses it leads to."""

    def __init__(self, scheme: str, netloc: str) -> None:
        parts = urlsplit(f"{scheme}://{netloc}")
        self._is_secure = scheme == "https"
        self.name: Name = (parts.hostname or "", parts.port or (443 if self._is_secure else 80))
        self.address: Address = None
        super().__init__(*self.name)

    def open(self, addresses: Addresses, timeouts: Timeouts) -> None:
        """Connect; raises OSError."""
        connected, self.address = addresses.connect(self.name, timeouts.connect_seconds)
        if self._is_secure:
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=self.name[0])
        connected.settimeout(timeouts.read_seconds)
        self.sock = connected


def _is_reusable(response: http.client.HTTPResponse) -> bool:
    """Return whether the server does its work, and the body is read to its end."""
    if response.status >= 500:
        return False
    response.read(_LONGEST_REST_BYTES)
    return response.isclosed() and not response.will_close


class _Stale(Exception):
    """A kept connection turned out to be closed."""


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    chunks: Sequence[Buffer],
) -> http.client.HTTPResponse:
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        for view in slices(chunks):
            connection.send(view)
    except ConnectionError:
        # a server that refuses a large upload answers and hangs up before it has read it
        response = connection.getresponse()
        if response.status < 300:
            raise
        return response
    return connection.getresponse()
