"""The data path: objects out of and into memory over presigned URLs, without a second copy.

On `http.client`, because it reads into the caller's buffer and writes from it; urllib3 copies both.
"""

import email.utils
import http.client
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from peer.errors import ObjectCorrupt, ObjectMissing, PeerlessError, StoreDenied, StoreError
from peer.store.checksums import SLICE_BYTES, Buffer, Verifier
from peer.store.connections import Connections, Timeouts
from peer.store.refusals import parse_refusal, redacted, store_error
from peer.store.retry import Patience, retry

__all__ = ["HttpTransfer", "Timeouts", "redacted"]

Memory = TypeVar("Memory", bytearray, memoryview)

_LONGEST_REFUSAL_BYTES = 64 << 10
_WHILE_A_FOLDER_GOES = Patience(total_seconds=0.5)


class HttpTransfer:
    """Moves objects to and from presigned URLs; safe to share between threads and across `fork`.

    Nothing is tried twice here (see `peer.store.retry`), except on a kept connection that had gone stale, and
    a PUT that is AccessDenied: MinIO says so where the last object of a folder on the way is being removed at
    that moment.

    Every method raises, with bucket and key but never the query string in its message: StoreUnreachable (no
    connection, a lost one, a time-out, 5xx), StoreDenied, UrlExpired, ClockSkewed, StoreFull, ObjectMissing,
    and StoreError for what has no class of its own.
    """

    def __init__(
        self,
        timeouts: Timeouts | None = None,
        *,
        on_transfer: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            timeouts: for every request.
            on_transfer: told of each success: `put`, `get`, `head` or `delete`, its bytes, its seconds.
        """
        self._on_transfer = on_transfer
        self._connections = Connections(timeouts or Timeouts())
        weakref.finalize(self, self._connections.close)

    def close(self) -> None:
        """Close the kept connections; using the transfer again opens new ones."""
        self._connections.close()

    def put(self, url: str, chunks: Sequence[Buffer], length: int) -> None:
        """Store `length` bytes of `chunks` as the object.

        After an error, readers find the whole old object or the whole new one.
        """
        start = time.perf_counter()

        def put_once() -> None:
            with self._response("PUT", url, {"Content-Length": str(length)}, chunks):
                pass

        retry(put_once, _WHILE_A_FOLDER_GOES, is_retryable=_is_denied)
        self._report("put", length, start)

    def get(
        self,
        url: str,
        length: int | None = None,
        *,
        byte_range: tuple[int, int] | None = None,
        checksum: str | None = None,
    ) -> bytearray:
        """Return the object, or its bytes from `byte_range[0]` up to and without `byte_range[1]`.

        Args:
            url: signed for GET.
            length: of the whole object, if its manifest tells.
            byte_range: must lie within the object; an empty one is not asked for.
            checksum: of the bytes that are returned, `sha256:<hex>` or `xxh3:<hex>`. Computed while they
                arrive, which costs less than `verify` afterwards.

        Raises:
            ObjectCorrupt: the store has another number of bytes, and none of them was read; or they have
                another checksum.
        """
        headers = {}
        if byte_range is not None:
            first, stop = byte_range
            length = stop - first
            if length == 0:
                return bytearray()
            headers["Range"] = f"bytes={first}-{stop - 1}"
        return self._fetch(url, headers, length, checksum, bytearray)

    def receive(
        self, url: str, length: int | None, checksum: str | None, allocate: Callable[[int], memoryview]
    ) -> memoryview:
        """Return the object in memory that `allocate` gives, once the store has said how long it is.

        Other arguments and errors as those of `get`.
        """
        return self._fetch(url, {}, length, checksum, allocate)

    def receive_if_exists(self, url: str, allocate: Callable[[int], memoryview]) -> memoryview | None:
        """Return the object as `receive` does, or None if there is none."""
        try:
            return self.receive(url, None, None, allocate)
        except ObjectMissing:
            return None

    def _fetch(
        self,
        url: str,
        headers: Mapping[str, str],
        length: int | None,
        checksum: str | None,
        allocate: Callable[[int], Memory],
    ) -> Memory:
        start = time.perf_counter()
        with self._response("GET", url, headers) as response:
            verifier = Verifier(checksum, redacted(url)) if checksum else None
            buffer = allocate(_declared_bytes(response, length, redacted(url)))
            _receive(response, memoryview(buffer), verifier)
        self._report("get", len(buffer), start)
        return buffer

    def get_if_exists(self, url: str) -> bytearray | None:
        """Return the object, or None if there is none."""
        try:
            return self.get(url)
        except ObjectMissing:
            return None

    def head(self, url: str) -> int | None:
        """Return the object's length in bytes, or None if there is none. The URL is signed for HEAD."""
        start = time.perf_counter()
        try:
            with self._response("HEAD", url) as response:
                length = int(response.getheader("Content-Length") or 0)
        except ObjectMissing:
            return None
        self._report("head", 0, start)
        return length

    def modified(self, url: str) -> float | None:
        """Return when the object was last written, by the store's clock, or None if there is none.

        Seconds since 1970, to the second. The URL is signed for HEAD.
        """
        start = time.perf_counter()
        try:
            with self._response("HEAD", url) as response:
                text = response.getheader("Last-Modified") or ""
        except ObjectMissing:
            return None
        self._report("head", 0, start)
        try:
            return email.utils.parsedate_to_datetime(text).timestamp()
        except ValueError as error:
            raise StoreError(f"{redacted(url)}: the server does not say when it was written") from error

    def delete(self, url: str) -> None:
        """Remove the object; one that is not there is no error. The URL is signed for DELETE."""
        start = time.perf_counter()
        with self._response("DELETE", url):
            pass
        self._report("delete", 0, start)

    def server_time(self, origin: str) -> float:
        """Return the clock of the server at `origin`, seconds since 1970, as its Date header tells; ± 1 s."""
        with self._connections.response("GET", origin, {}) as response:
            date = response.getheader("Date")
        try:
            return email.utils.parsedate_to_datetime(date or "").timestamp()
        except ValueError as error:
            raise StoreError(f"{origin}: answers without a Date; it is no S3 store") from error

    @contextmanager
    def _response(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, chunks: Sequence[Buffer] = ()
    ) -> Iterator[http.client.HTTPResponse]:
        with self._connections.response(method, url, headers or {}, chunks) as response:
            if response.status >= 300:
                refusal = parse_refusal(
                    response.status,
                    response.read(_LONGEST_REFUSAL_BYTES),
                    response.getheader("X-Minio-Error-Code") or "",
                    response.getheader("X-Minio-Error-Desc") or "",
                )
                is_range = "Range" in (headers or {})
                raise store_error(refusal, f"{method} {redacted(url)}", is_range=is_range)
            yield response

    def _report(self, operation: str, num_bytes: int, start: float) -> None:
        if self._on_transfer is not None:
            self._on_transfer(operation, num_bytes, time.perf_counter() - start)


def _is_denied(error: PeerlessError) -> bool:
    # wrong credentials and signatures have codes of their own
    return isinstance(error, StoreDenied) and error.code == "AccessDenied"


def _declared_bytes(response: http.client.HTTPResponse, length: int | None, where: str) -> int:
    declared = response.length
    if declared is None:
        raise StoreError(f"{where}: the server does not say how long the object is; it is no S3 store")
    if length is not None and declared != length:
        raise ObjectCorrupt(f"{where} has {declared} bytes, {length} were expected")
    return declared


def _receive(response: http.client.HTTPResponse, view: memoryview, verifier: Verifier | None) -> None:
    position = 0
    while position < len(view):
        num_read = response.readinto(view[position : position + SLICE_BYTES])
        if num_read == 0:
            raise ConnectionError(f"the connection ended after {position} of {len(view)} bytes")
        if verifier is not None:
            verifier.update(view[position : position + num_read])
        position += num_read
    if verifier is not None:
        verifier.finish()
