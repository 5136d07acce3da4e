"""The peer's side of the object store: any S3 endpoint, with credentials, retries and stated patience.

Data goes over presigned URLs (`peer.store.transfer`), because signing a payload costs eight times the
client's CPU; the `minio` client does what is not data: buckets, listings, bulk deletes, signatures.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from peer import messages
from peer.errors import (
    ClockSkewed,
    ConfigurationError,
    ObjectMissing,
    PeerlessError,
    StoreDenied,
    StoreError,
    StoreUnreachable,
    UrlExpired,
)
from peer.store import keys
from peer.store.checksums import Buffer, verify
from peer.store.refusals import Refusal, store_error
from peer.store.retry import Patience, retry
from peer.store.signing import UrlSigner
from peer.store.transfer import HttpTransfer, Timeouts

__all__ = ["Store", "StoreAddress", "verify"]

Result = TypeVar("Result")

LARGEST_SKEW_SECONDS = 300.0

_OWN_URL_SECONDS = 900
_DATE_HEADER_MEAN_LAG_SECONDS = 0.5
_BUCKET_MADE_BY_ANOTHER = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


@dataclass(frozen=True)
class StoreAddress:
    """Where a store is and how to enter it; `function_endpoint` is where functions see the same store."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = "peerless"
    region: str = "us-east-1"
    function_endpoint: str | None = None


class Store:
    """One bucket of an S3 store; safe to share between threads and across `fork`.

    Every operation is tried again after a lost connection or a 5xx, as long as `patience` lasts; a denied or
    a missing object is an error at once. Keys are refused (InvalidName) before anything is sent. Methods
    raise the errors of `HttpTransfer`, with bucket and key in their messages.
    """

    def __init__(
        self,
        address: StoreAddress,
        *,
        patience: Patience | None = None,
        timeouts: Timeouts | None = None,
        on_transfer: Callable[[str, int, float], None] | None = None,
        on_retry: Callable[[PeerlessError], None] | None = None,
        on_request: Callable[[str, float, PeerlessError | None], None] | None = None,
    ) -> None:
        """Send nothing yet.

        Args:
            address: of the store.
            patience: for each operation; 60 s unless told.
            timeouts: for each try.
            on_transfer: as in `HttpTransfer`.
            on_retry: told of each error that another try follows.
            on_request: told of each try: `put`, `get`, `head`, `delete` or `list`, its seconds, and its error
                if it had one.

        Raises:
            ConfigurationError: an endpoint is not `http://host:port` or `https://host:port`.
        """
        self.address = address
        self._patience = patience or Patience(total_seconds=60.0)
        self._timeouts = timeouts or Timeouts()
        self._on_transfer = on_transfer
        self._on_retry = on_retry
        self._on_request = on_request
        self._transfer = HttpTransfer(self._timeouts, on_transfer=self._count)
        self._lock = threading.Lock()
        self._bytes_moved = {"put": 0, "get": 0}
        self._signer = _signer(address, _checked_endpoint(address.endpoint))
        function_endpoint = _checked_endpoint(address.function_endpoint or address.endpoint)
        self._function_signer = _signer(address, function_endpoint)
        self._open_client()

    def _open_client(self) -> None:
        self._process = os.getpid()
        self._own_client = _minio_client(self.address, self._timeouts)

    def close(self) -> None:
        """Close the kept connections; using the store again opens new ones."""
        self._transfer.close()
        self._client._http.clear()

    def with_patience(self, patience: Patience, timeouts: Timeouts) -> "Store":
        """Return another one of the same bucket, told alike; it has connections of its own."""
        return Store(
            self.address,
            patience=patience,
            timeouts=timeouts,
            on_transfer=self._on_transfer,
            on_retry=self._on_retry,
            on_request=self._on_request,
        )

    def put(self, key: str, chunks: Sequence[Buffer], length: int) -> None:
        """Store `length` bytes of `chunks` under `key`, replacing what was there; sent without a copy."""
        self._with_url("PUT", key, lambda url: self._transfer.put(url, chunks, length))

    def put_bytes(self, key: str, data: Buffer) -> None:
        """Store `data` under `key`, replacing what was there."""
        self.put(key, [data], memoryview(data).nbytes)

    def put_message(self, key: str, message: Any) -> None:
        """Store a message of `peer.messages` as JSON under `key`, replacing what was there."""
        self.put_bytes(key, messages.encode(message))

    def get(self, key: str, length: int | None = None, checksum: str | None = None) -> bytearray:
        """Return the object; ObjectCorrupt if its length or its checksum is another than is told here."""
        return self._with_url("GET", key, lambda url: self._transfer.get(url, length, checksum=checksum))

    def receive(
        self, key: str, length: int, checksum: str, allocate: Callable[[int], memoryview]
    ) -> memoryview:
        """Return the object as `get` does, in memory that `allocate` gives."""
        return self._with_url("GET", key, lambda url: self._transfer.receive(url, length, checksum, allocate))

    def receive_if_exists(self, key: str, allocate: Callable[[int], memoryview]) -> memoryview | None:
        """Return the object in memory that `allocate` gives, or None if there is none."""
        return self._with_url("GET", key, lambda url: self._transfer.receive_if_exists(url, allocate))

    def get_range(self, key: str, start: int, stop: int) -> bytearray:
        """Return the bytes from `start` up to and without `stop`; ObjectCorrupt if there are fewer."""
        return self._with_url("GET", key, lambda url: self._transfer.get(url, byte_range=(start, stop)))

    def get_if_exists(self, key: str) -> bytearray | None:
        """Return the object, or None if there is none."""
        return self._with_url("GET", key, self._transfer.get_if_exists)

    def get_message(self, key: str, kind: type[messages.MessageType]) -> messages.MessageType:
        """Return the message under `key`; ObjectCorrupt if it is not one of this kind."""
        message = self.get_message_if_exists(key, kind)
        if message is None:
            raise ObjectMissing(f"{self._where(key)}: there is no such object")
        return message

    def get_message_if_exists(
        self, key: str, kind: type[messages.MessageType]
    ) -> messages.MessageType | None:
        """Return the message under `key`, or None if there is none; ObjectCorrupt if it is another kind."""
        body = self.get_if_exists(key)
        return None if body is None else messages.decode_stored(bytes(body), kind, self._where(key))

    def head(self, key: str) -> int | None:
        """Return the object's length in bytes, or None if there is none."""
        return self._with_url("HEAD", key, self._transfer.head)

    def modified(self, key: str) -> float | None:
        """Return when the object was last written, by the store's clock, or None if there is none."""
        return self._with_url("HEAD", key, self._transfer.modified)

    def delete(self, keys_to_delete: Iterable[str]) -> None:
        """Remove the objects, a thousand in a request; those that are not there are no error."""
        names = [_checked(key) for key in keys_to_delete]

        def remove() -> None:
            objects = [DeleteObject(name) for name in names]
            for error in self._client.remove_objects(self.address.bucket, objects):
                refusal = Refusal(500, error.code, error.message or "")
                raise store_error(refusal, f"DELETE {self._where(error.name or '')}")

        if names:
            self._control("DELETE", f"{len(names)} objects", remove)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and length in bytes of every object whose key begins with `prefix`, in key order.

        Not for the round path: it costs a request for each directory. (One for all would be answered
        incompletely by nanio, which pages in another order than it continues in.)
        """
        for key, length in self._level(prefix):
            if key.endswith("/"):
                yield from self.list(key)
            else:
                yield key, length

    def names(self, prefix: str) -> Sequence[str]:
        """Return what follows `prefix` up to the next `/`, of all keys, once each, sorted, with that `/`."""
        return [key.removeprefix(prefix) for key, _ in self._level(prefix)]

    def _level(self, prefix: str) -> Sequence[tuple[str, int]]:
        if prefix:
            _checked(prefix.removesuffix("/"))

        def listed() -> Sequence[tuple[str, int]]:
            found = self._client.list_objects(self.address.bucket, prefix)
            return sorted({(item.object_name or "", item.size or 0) for item in found})

        return self._control("LIST", prefix, listed)

    def sign_get(self, key: str, valid_seconds: float) -> str:
        """Return a URL with which a function may read the object; nothing is sent."""
        return self._function_signer.sign("GET", _checked(key), max(1, round(valid_seconds)))

    def sign_put(self, key: str, valid_seconds: float) -> str:
        """Return a URL with which a function may write the object; nothing is sent."""
        return self._function_signer.sign("PUT", _checked(key), max(1, round(valid_seconds)))

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""

        def ensure() -> None:
            if self._client.bucket_exists(self.address.bucket):
                return
            try:
                self._client.make_bucket(self.address.bucket)
            except S3Error as error:
                if error.code not in _BUCKET_MADE_BY_ANOTHER:
                    raise

        self._control("PUT", "", ensure)

    def clock_skew_seconds(self) -> float:
        """Return the store's clock minus this machine's, to about a second."""
        before = time.time()
        server_time = self._transfer.server_time(self.address.endpoint)
        return server_time + _DATE_HEADER_MEAN_LAG_SECONDS - (before + time.time()) / 2

    def check(self) -> None:
        """Return if the store answers, the clocks agree within 5 minutes, and the credentials are accepted.

        Tries once.

        Raises:
            StoreUnreachable: nothing answers; the message says where and what to start.
            ClockSkewed: the message says by how much.
            StoreDenied: the store does not accept the credentials.
        """
        endpoint = self.address.endpoint
        try:
            skew_seconds = self.clock_skew_seconds()
            if abs(skew_seconds) > LARGEST_SKEW_SECONDS:
                raise ClockSkewed(
                    f"this machine's clock is {abs(skew_seconds):.0f} s "
                    f"{'behind' if skew_seconds > 0 else 'ahead of'} that of the store at {endpoint}; "
                    "set it (`timedatectl set-ntp true`)"
                )
            self._translated("LIST", "", self._look_into_bucket)
        except StoreUnreachable as error:
            raise StoreUnreachable(
                f"no store answers at {endpoint} ({error.__cause__ or error}); "
                "start one with `peerless up`, or say where yours is"
            ) from error
        except StoreDenied as error:
            raise StoreDenied(
                f"the store at {endpoint} refuses the access key {self.address.access_key!r}: "
                "check the access key and the secret key"
            ) from error

    def _look_into_bucket(self) -> None:
        # a listing, because the answer to a HEAD cannot say why it is refused
        try:
            next(self._client.list_objects(self.address.bucket, prefix="check/"), None)
        except S3Error as error:
            if error.code != "NoSuchBucket":
                raise

    def bytes_moved(self) -> dict[str, int]:
        """Return the bytes of all objects that were `put` and `get` so far by this process."""
        with self._lock:
            return dict(self._bytes_moved)

    def _count(self, operation: str, num_bytes: int, seconds: float) -> None:
        if num_bytes:
            with self._lock:
                self._bytes_moved[operation] += num_bytes
        if self._on_transfer is not None:
            self._on_transfer(operation, num_bytes, seconds)

    def _where(self, key: str) -> str:
        return f"{self.address.endpoint}/{self.address.bucket}/{key}"

    @property
    def _client(self) -> Minio:
        if self._process != os.getpid():
            self._open_client()
        return self._own_client

    def _with_url(self, method: str, key: str, action: Callable[[str], Result]) -> Result:
        def once() -> Result:
            url = self._signer.sign(method, _checked(key), _OWN_URL_SECONDS)
            try:
                return action(url)
            except UrlExpired as error:
                raise ClockSkewed(
                    f"{error} — but it was signed just now: this machine's clock is behind the store's"
                ) from error

        return self._retried(method, once)

    def _retried(self, method: str, action: Callable[[], Result]) -> Result:
        # a corrupt object is retryable for those who can have it made again; asking again cannot help
        return retry(
            lambda: self._told(method, action),
            self._patience,
            is_retryable=lambda error: isinstance(error, StoreUnreachable),
            on_retry=self._on_retry,
        )

    def _told(self, method: str, action: Callable[[], Result]) -> Result:
        if self._on_request is None:
            return action()
        began, failure = time.perf_counter(), None
        try:
            return action()
        except PeerlessError as error:
            failure = error
            raise
        finally:
            self._on_request(method.lower(), time.perf_counter() - began, failure)

    def _control(self, method: str, key: str, action: Callable[[], Result]) -> Result:
        return self._retried(method, lambda: self._translated(method, key, action))

    def _translated(self, method: str, key: str, action: Callable[[], Result]) -> Result:
        what = f"{method} {self._where(key)}"
        try:
            return action()
        except S3Error as error:
            refusal = Refusal(error.response.status, error.code or "", error.message or "")
            raise store_error(refusal, what) from error
        except (InvalidResponseError, ServerError, urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnreachable(f"{what}: {error}; is the store running?") from error
        except (MinioException, ValueError) as error:
            raise StoreError(f"{what}: {error}") from error


def _checked(key: str) -> str:
    for segment in key.split("/"):
        keys.checked(segment, "object key")
    return key


def _signer(address: StoreAddress, endpoint: str) -> UrlSigner:
    keys.checked(address.bucket, "bucket")
    return UrlSigner(endpoint, address.access_key, address.secret_key, address.region, address.bucket)


def _minio_client(address: StoreAddress, timeouts: Timeouts) -> Minio:
    parts = urlsplit(address.endpoint)
    return Minio(
        parts.netloc,
        access_key=address.access_key,
        secret_key=address.secret_key,
        secure=parts.scheme == "https",
        region=address.region,
        http_client=urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeouts.connect_seconds, read=timeouts.read_seconds),
            retries=False,
            maxsize=4,
        ),
    )


def _checked_endpoint(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        is_origin = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_origin = False
    if not is_origin or parts.path.strip("/") or "@" in parts.netloc:
        raise ConfigurationError(f"store endpoint {endpoint!r} is not usable: write http://host:port")
    return endpoint
