"""From a function's request body to its reply: settings, allow-lists, and every error as typed JSON.

    400  bad_request, not_finite, store_denied …   asking again cannot help
    403  not_allowed                               a model or a store origin that the environment does not
    list
    409  version_differs                           with the versions spoken
    502  store_unreachable, object_corrupt …       asking again may help
    503  url_expired                               sign again
    507  is left to the function server, which also knows kills

A handler is a line: `service().answer(event.body, GradientRequest, Worker.gradient)`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from peer import errors, messages
from peer.learning.models import BUILT_IN_MODELS, check_allowed
from peer.learning.worker import DEFAULT_CACHE_BYTES, Worker
from peer.messages import (
    AggregateRequest,
    EvaluateRequest,
    GradientRequest,
    Refusal,
    RemoteObject,
    StoredReply,
)
from peer.store.tensors import EncodedTensors
from peer.store.transfer import HttpTransfer

log = logging.getLogger(__name__)

Request = TypeVar("Request", GradientRequest, EvaluateRequest, AggregateRequest)
Reply = dict[str, Any]

# the first class that fits names the error; what is not here is the function server's: 500, or 507 for memory
_REFUSALS: tuple[tuple[type[errors.PeerlessError], int, str], ...] = (
    (errors.TrainingDiverged, 400, "not_finite"),
    (errors.FunctionRefused, 400, "bad_request"),
    (errors.ConfigurationError, 400, "bad_request"),
    (errors.DatasetError, 400, "bad_dataset"),
    (errors.UrlExpired, 503, "url_expired"),
    (errors.StoreDenied, 400, "store_denied"),
    (errors.ClockSkewed, 400, "clock_skewed"),
    (errors.ObjectMissing, 502, "object_missing"),
    (errors.ObjectCorrupt, 502, "object_corrupt"),
    (errors.StoreFull, 502, "store_full"),
    (errors.StoreError, 502, "store_unreachable"),
)


_FIRST_ERROR = 400
_LONGEST_TEXT_BYTES = 1000

# a ValueError is invalid UTF-8
_NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)


@dataclass(frozen=True)
class Settings:
    """What a function's environment says.

    Attributes:
        models: `peerless_models`, the models that may be built.
        store_origins: `peerless_store_origins`, `scheme://host:port` of each store that may be read and
            written; none means no request is served.
        cache_bytes: `peerless_cache_bytes`, the most bytes of weights and parts kept between requests.
    """

    models: frozenset[str]
    store_origins: frozenset[str]
    cache_bytes: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Return the settings of an environment.

        Raises:
            ConfigurationError: a value cannot be read; the message names its variable.
        """
        cache = environment.get("peerless_cache_bytes", "") or str(DEFAULT_CACHE_BYTES)
        if not cache.isdecimal():
            raise errors.ConfigurationError(f"peerless_cache_bytes is {cache!r}: give a number of bytes")
        models = _listed(environment.get("peerless_models", ""))
        origins = _listed(environment.get("peerless_store_origins", ""))
        return cls(models or frozenset(BUILT_IN_MODELS), frozenset(map(_origin, origins)), int(cache))


class Service:
    """One replica's answer to every request.

    Args:
        settings: from the environment.
        transfer: reads and writes objects at presigned URLs.
    """

    def __init__(self, settings: Settings, transfer: HttpTransfer) -> None:
        self._settings = settings
        self._transfer = transfer
        self._worker = Worker(
            self._fetch, self._upload, cache_bytes=settings.cache_bytes, allowed_models=settings.models
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Service":
        """Return the service that a function's environment describes.

        Raises:
            ConfigurationError: see `Settings.from_environment`.
        """
        return cls(Settings.from_environment(environment), HttpTransfer())

    def answer(
        self, body: bytes, kind: type[Request], compute: Callable[[Worker, Request], messages.Message]
    ) -> Reply:
        """Return the reply to one request: status code, JSON body and headers. Errors are replies, too.

        Where the request has a `reply_url`, the reply is put there, and what is returned says 200: whoever
        delivers the call has nothing left to do.

        Args:
            body: the request as it came.
            kind: what it must be.
            compute: the `Worker` method that answers it.
        """
        reply, reply_url = self._computed(body, kind, compute), _reply_url(body)
        return self._put_reply(reply_url, reply) if reply_url else reply

    def keep(self, status: str, body: bytes, reply_url: str) -> Reply:
        """Put the reply of an asynchronous call that its function could not put, for it was killed.

        The gateway calls back with what became of each call; what its function has said itself is 200, and
        nothing is done about it.

        Args:
            status: of the call, as the gateway tells it.
            body: of its reply; the gateway's JSON, or something else.
            reply_url: where it goes.
        """
        if not status.isdecimal() or int(status) < _FIRST_ERROR:
            return _reply(200, Refusal(error="", message="nothing to keep"))
        try:
            refusal = msgspec.json.encode(msgspec.json.decode(body, type=dict[str, Any]))
        except _NOT_JSON:
            text = body[:_LONGEST_TEXT_BYTES].decode(errors="replace")
            refusal = messages.encode(Refusal(error="", message=text))
        return self._put_reply(reply_url, _json_reply(int(status), refusal))

    def _put_reply(self, url: str, reply: Reply) -> Reply:
        stored = messages.encode(StoredReply(reply["statusCode"], msgspec.Raw(reply["body"])))
        try:
            self._check_origins([url])
            self._transfer.put(url, [stored], len(stored))
        except errors.FunctionRefused as error:
            return _reply(403, Refusal(error="not_allowed", message=str(error)))
        except errors.StoreError as error:
            log.warning("a reply was not stored: %s", error)
            return _reply(502, Refusal(error="store_unreachable", message=str(error)))
        return {**reply, "statusCode": 200}

    def _computed(
        self, body: bytes, kind: type[Request], compute: Callable[[Worker, Request], messages.Message]
    ) -> Reply:
        refusal = _other_version(body)
        if refusal is not None:
            return _reply(409, refusal)
        try:
            request = messages.decode(body, kind)
        except _NOT_JSON as error:
            return _reply(400, Refusal(error="bad_request", message=f"not a {kind.__name__}: {error}"))
        try:
            self._check_allowed(request)
        except errors.FunctionRefused as error:
            return _reply(403, Refusal(error="not_allowed", message=str(error)))
        try:
            return _reply(200, compute(self._worker, request))
        except errors.PeerlessError as error:
            return _refused(error, request)

    def _check_allowed(self, request: GradientRequest | EvaluateRequest | AggregateRequest) -> None:
        if not isinstance(request, AggregateRequest):
            check_allowed(request.model, self._settings.models)
        self._check_origins(_urls(request))

    def _check_origins(self, urls: Iterable[str]) -> None:
        for origin in {_origin(url) for url in urls} - self._settings.store_origins:
            allowed = ", ".join(sorted(self._settings.store_origins)) or "nothing"
            raise errors.FunctionRefused(
                f"store {origin[:200]} is not allowed here: add it to the function's environment variable "
                f"peerless_store_origins, which has {allowed}"
            )

    def _fetch(self, remote: RemoteObject) -> bytearray:
        return self._transfer.get(remote.url, remote.length)

    def _upload(self, url: str, encoded: EncodedTensors) -> None:
        self._transfer.put(url, encoded.chunks, encoded.length)


class _Spoken(msgspec.Struct):
    protocol: int


class _Async(msgspec.Struct):
    reply_url: str = ""


def _reply_url(body: bytes) -> str:
    """Return where a request wants its reply, also if the rest of it cannot be read."""
    try:
        return msgspec.json.decode(body, type=_Async).reply_url
    except _NOT_JSON:
        return ""


def _other_version(body: bytes) -> Refusal | None:
    try:
        spoken = msgspec.json.decode(body, type=_Spoken).protocol
    except _NOT_JSON:
        return None
    if spoken == messages.PROTOCOL_VERSION:
        return None
    return Refusal(
        error="version_differs",
        message=f"this function speaks protocol {messages.PROTOCOL_VERSION}, the request is {spoken}: "
        "deploy the functions and start the peers from one version of peerless",
        speaks=[messages.PROTOCOL_VERSION],
    )


def _urls(request: GradientRequest | EvaluateRequest | AggregateRequest) -> list[str]:
    """Return every address that a request makes the function read or write."""
    if isinstance(request, AggregateRequest):
        return [request.result_url, *(part.object.url for part in request.parts)]
    read = [request.weights.url, *(part.url for part in request.data.parts)]
    if isinstance(request, EvaluateRequest):
        return read
    return [*read, *(part.url for part in request.next_parts), request.result_url]


def _refused(
    error: errors.PeerlessError, request: GradientRequest | EvaluateRequest | AggregateRequest
) -> Reply:
    status, name = next(
        ((status, name) for kind, status, name in _REFUSALS if isinstance(error, kind)), (500, "internal")
    )
    log.warning(
        "run %s round %d peer %d invocation %d: %s: %s",
        request.run,
        request.round,
        request.peer,
        request.invocation,
        name,
        error,
    )
    return _reply(status, Refusal(error=name, message=str(error)))


def _reply(status: int, message: messages.Message) -> Reply:
    return _json_reply(status, messages.encode(message))


def _json_reply(status: int, body: bytes) -> Reply:
    return {"statusCode": status, "body": body, "headers": {"Content-Type": "application/json"}}


def _listed(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc}".lower()
