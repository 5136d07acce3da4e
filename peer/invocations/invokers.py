"""Where a gradient is computed: by a function behind the gateway, or by this process (`--compute local`).

Both take the same requests and run the same `peer.learning.worker`, so they give the same bits.
"""

import threading
from typing import Protocol

import msgspec

from peer import messages
from peer.aggregation import Gradient
from peer.allocation.adaptation import Adapter
from peer.compression.codecs import codec_named
from peer.config import GatewayAddress, RunConfig, is_adaptive
from peer.errors import FunctionRefused, InvocationFailed, ObjectMissing
from peer.gateway import Gateway
from peer.invocations.async_calls import AsyncCalls, Delete
from peer.invocations.invocation import Stored
from peer.learning.worker import Worker
from peer.messages import (
    AggregateReply,
    AggregateRequest,
    EvaluateReply,
    EvaluateRequest,
    GradientReply,
    GradientRequest,
    MessageType,
    RemoteObject,
    SamplesRequest,
)
from peer.store.buffers import Buffers
from peer.store.gradients import decode_gradient
from peer.store.s3 import Store
from peer.store.tensors import EncodedTensors

_LOCAL_CACHE_BYTES = 256 << 20
_URL_MARGIN_SECONDS = 300


class Invoker(Protocol):
    """Computes one request. May be called from several threads."""

    def readable(self, key: str) -> str:
        """Return the address under which the one who computes may read this object."""

    def writable(self, key: str) -> str:
        """Return the address under which it may write this object."""

    def gradient(self, request: GradientRequest, result_key: str) -> tuple[GradientReply, Stored[Gradient]]:
        """Return the reply, and what fetches and checks the gradient.

        Raises:
            FunctionError, StoreError: see `Gateway.invoke`; this attempt has no result. Fetching raises them,
                too.
        """

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Return the reply; raises as `gradient`."""

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        """Return the reply, once the mean is stored; raises as `gradient`."""


class FunctionInvoker:
    """Invokes the functions; they hold no credentials but the URLs of a request.

    Args:
        store: signs the URLs and reads the results.
        gateway: where the functions are.
        seconds: how long one invocation may take, its wait in the gateway's queue included.
        delete_replies: makes every call asynchronous, and removes what it was replied; None: each is waited
            for.
    """

    def __init__(
        self, store: Store, gateway: GatewayAddress, seconds: float, delete_replies: Delete | None = None
    ) -> None:
        self._store = store
        self._address = gateway
        self._seconds = seconds
        self._local = threading.local()
        self._buffers = Buffers()
        self._async_calls = None
        if delete_replies is not None:
            self._async_calls = AsyncCalls(store, seconds, self._valid_seconds, delete_replies)

    def readable(self, key: str) -> str:
        """Return a presigned GET URL, valid for the queue, the invocation and five minutes."""
        return self._store.sign_get(key, self._valid_seconds)

    def writable(self, key: str) -> str:
        """Return a presigned PUT URL of the same validity."""
        return self._store.sign_put(key, self._valid_seconds)

    def gradient(self, request: GradientRequest, result_key: str) -> tuple[GradientReply, Stored[Gradient]]:
        """Invoke `gradient`; what it stored is fetched later. See `Invoker.gradient`."""
        reply = self._invoke("gradient", request, GradientReply)

        def fetch() -> Gradient:
            try:
                buffer = self._store.receive(result_key, reply.length, reply.checksum, self._buffers.take)
            except ObjectMissing as error:
                raise InvocationFailed(
                    f"function gradient replied, but its result is not stored: {error}"
                ) from error
            codec = codec_named(request.codec)
            return decode_gradient(buffer, reply.training.num_samples, codec, key=result_key)

        return reply, Stored(fetch)

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Invoke `evaluate`; see `Invoker.gradient`."""
        return self._invoke("evaluate", request, EvaluateReply)

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        """Invoke `aggregate`; see `Invoker.gradient`."""
        return self._invoke("aggregate", request, AggregateReply)

    @property
    def _valid_seconds(self) -> int:
        return int(2 * self._seconds) + _URL_MARGIN_SECONDS

    def _invoke(
        self, function: str, request: SamplesRequest | AggregateRequest, kind: type[MessageType]
    ) -> MessageType:
        gateway = getattr(self._local, "gateway", None)
        if gateway is None:
            gateway = self._local.gateway = Gateway(self._address)
        if self._async_calls is not None:
            body = self._async_calls.invoke(gateway, function, request)
        else:
            body = gateway.invoke(function, messages.encode(request), self._seconds)
        try:
            return messages.decode(body, kind)
        except msgspec.DecodeError as error:
            raise InvocationFailed(f"function {function} replied with something else: {error}") from error


class AdaptingInvoker:
    """Invokes functions at the sizes that fit; whatever runs out of memory adapts them (`Adapter.noticing`).

    Args:
        inner: invokes.
        adapter: this peer's.
    """

    def __init__(self, inner: Invoker, adapter: Adapter) -> None:
        self._inner = inner
        self._adapter = adapter

    def readable(self, key: str) -> str:
        """See `Invoker.readable`."""
        return self._inner.readable(key)

    def writable(self, key: str) -> str:
        """See `Invoker.writable`."""
        return self._inner.writable(key)

    def gradient(self, request: GradientRequest, result_key: str) -> tuple[GradientReply, Stored[Gradient]]:
        """Invoke with the present micro-batch instead of the request's; see `Invoker.gradient`."""
        largest_batch = max(sum(stop - start for _, start, stop in each.ranges) for each in request.batches)
        with self._adapter.noticing("gradient", largest_batch, _which(request)) as micro_batch:
            request = msgspec.structs.replace(request, micro_batch=micro_batch)
            reply, stored = self._inner.gradient(request, result_key)
        self._adapter.limit_bytes = reply.usage.memory_limit_bytes
        return reply, stored

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """See `Invoker.gradient`."""
        with self._adapter.noticing("evaluate", which=_which(request)):
            return self._inner.evaluate(request)

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        """See `Invoker.gradient`."""
        with self._adapter.noticing("aggregate", which=_which(request)):
            return self._inner.aggregate(request)


def _which(request: SamplesRequest | AggregateRequest) -> tuple[int, int]:
    """Return what all attempts of one invocation have in common."""
    return request.round, request.invocation


def adapting(inner: Invoker, config: RunConfig, adapter: Adapter) -> Invoker:
    """Return an invoker that adapts, if the run does; else the one that is given."""
    return AdaptingInvoker(inner, adapter) if is_adaptive(config) else inner


class LocalInvoker:
    """Computes in this process, one request after the other: the paper's conventional P2P."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._result = bytearray()
        self._worker = Worker(self._fetch, self._keep, cache_bytes=_LOCAL_CACHE_BYTES, allowed_models=None)

    def readable(self, key: str) -> str:
        """Return the key: this process has the store's credentials."""
        return key

    def writable(self, key: str) -> str:
        """Return the key; the result stays in this process."""
        return key

    def gradient(self, request: GradientRequest, result_key: str) -> tuple[GradientReply, Stored[Gradient]]:
        """Compute a gradient; see `Invoker.gradient`. The reply has length 0: nothing was stored."""
        with self._lock:
            reply = self._worker.gradient(request)
            gradient = decode_gradient(self._result, reply.training.num_samples, codec_named(request.codec))
        return msgspec.structs.replace(reply, length=0), Stored(lambda: gradient)

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Evaluate; see `Invoker.gradient`."""
        with self._lock:
            return self._worker.evaluate(request)

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        """Refuse: peers that compute themselves have no functions (`peer.config.validate` says so before)."""
        raise FunctionRefused(f"round {request.round}: --compute local has no function to aggregate")

    def _fetch(self, remote: RemoteObject) -> bytearray:
        return self._store.get(remote.url, remote.length)

    def _keep(self, _url: str, encoded: EncodedTensors) -> None:
        self._result = bytearray(b"".join(encoded.chunks))
