"""Answers requests: inside a function, and inside a peer that computes for itself."""

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from peer.aggregation import Gradient, WeightedMean
from peer.compression.codecs import Codec, codec_named
from peer.compression.names import parse_stateless
from peer.compression.noise import Noise
from peer.errors import FunctionRefused
from peer.learning import preprocess
from peer.learning.cache import Cache
from peer.learning.flat import FlatState, Layout
from peer.learning.gradients import (
    GradientResult,
    LabelledBatch,
    Loss,
    batch_seed,
    compute_gradient,
    evaluate,
    loss_named,
)
from peer.learning.local_steps import take_steps
from peer.learning.models import ModelInput, build, check_allowed, input_of
from peer.learning.objects import Fetch, Objects
from peer.learning.seeds import derive_seed
from peer.learning.threads import use_one_thread
from peer.learning.usage import Phases, usage
from peer.messages import (
    AggregateReply,
    AggregateRequest,
    DataParts,
    EvaluateReply,
    EvaluateRequest,
    GradientReply,
    GradientRequest,
    ModelSpec,
    Usage,
    encode,
)
from peer.store import tensors
from peer.store.gradients import encode_gradient, open_gradient

Upload = Callable[[str, tensors.EncodedTensors], None]

DEFAULT_CACHE_BYTES = 256 << 20
# an evaluation has no gradient that depends on its cut, and its images may be large
EVALUATION_CHUNK = 256

_CACHED_MODELS = 2


@dataclass(frozen=True)
class _BuiltModel:
    model: nn.Module
    layout: Layout
    model_input: ModelInput


class Worker:
    """Computes requests one at a time. A result depends on its request only, never on those before.

    Args:
        fetch: returns the bytes of an object; the worker verifies the checksum. Called from several threads.
        upload: puts an encoded result under a URL and returns once it is stored.
        cache_bytes: the most bytes of weights and dataset parts that are kept from one request to the next;
            fewer where the memory limit leaves no room for them.
        allowed_models: see `peer.learning.models.check_allowed`.
    """

    def __init__(
        self,
        fetch: Fetch,
        upload: Upload,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        allowed_models: Collection[str] | None = None,
    ) -> None:
        self._upload = upload
        self._allowed_models = allowed_models
        self._objects = Objects(fetch, cache_bytes)
        self._models: Cache[_BuiltModel] = Cache(_CACHED_MODELS)
        self._is_cold = True

    def gradient(self, request: GradientRequest) -> GradientReply:
        """Return the reply, once the gradient is stored under the request's result URL.

        The parts that the next round needs are then on their way, as far as there is room for them: not
        before, for beside a batch they would take memory that its limit may not have.

        Raises:
            FunctionRefused: the request is not possible here; nothing was stored.
            ConfigurationError: its model, arguments, weights or codec are wrong; nothing was stored.
            TrainingDiverged: the loss or the gradient is not finite; nothing was stored.
            StoreError: an object could not be read, was not what its checksum says, or not be written.
        """
        use_one_thread()
        phases = Phases()
        loss = loss_named(request.loss)
        codec = codec_named(parse_stateless(request.codec))
        built = self._model(request.model, request.data, phases)
        with phases.phase("compute"):
            result = self._compute_gradient(request, loss, built, phases)
        with phases.phase("upload"):
            encoded = _encoded(result, request, codec)
            checksum = encoded.xxh3()
            self._upload(request.result_url, encoded)
        reply = GradientReply(
            length=encoded.length,
            checksum=checksum,
            training=result.training,
            usage=self._used(phases),
        )
        self._objects.prefetch(request.next_parts)
        return reply

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Return how well the request's weights predict its samples.

        Raises:
            PeerlessError: as `gradient`.
        """
        use_one_thread()
        phases = Phases()
        loss = loss_named(request.loss)
        built = self._model(request.model, request.data, phases)
        with phases.phase("compute"):
            weights, parts = self._fetched(request, phases)
            evaluation = evaluate(
                built.model,
                built.layout,
                weights,
                _batches(request, parts, built.model_input, phases, chunk=EVALUATION_CHUNK),
                loss=loss,
            )
        return EvaluateReply(evaluation=evaluation, usage=self._used(phases))

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        """Return the reply, once the mean of the request's parts is stored under its result URL.

        Folded in the request's order, so that the bits are those that a peer would get. Needs memory for two
        parts, however many there are.

        Raises:
            FunctionRefused: there is no part, or their shapes differ; nothing was stored.
            ConfigurationError: the codec is not known here; nothing was stored.
            StoreError: as `gradient`.
        """
        use_one_thread()
        phases = Phases()
        codec = codec_named(request.codec)
        if not request.parts:
            raise FunctionRefused("there is nothing to aggregate: send at least one part")
        mean = WeightedMean()
        for part in request.parts:
            with phases.phase("fetch"):
                buffer, where = self._objects.get_once(part.object), part.object.url.partition("?")[0]
                gradient = open_gradient(buffer, part.num_samples, codec, key=where)
            with phases.phase("compute"):
                try:
                    mean.add(gradient)
                except ValueError as error:
                    raise FunctionRefused(str(error)) from error
        result = mean.result()
        with phases.phase("upload"):
            encoded = encode_gradient(result)
            checksum = encoded.xxh3()
            self._upload(request.result_url, encoded)
        return AggregateReply(
            length=encoded.length,
            checksum=checksum,
            num_samples=result.num_samples,
            usage=self._used(phases),
        )

    def _compute_gradient(
        self, request: GradientRequest, loss: Loss, built: _BuiltModel, phases: Phases
    ) -> GradientResult:
        compute = compute_gradient
        if request.local_optimizer is not None:
            compute = partial(take_steps, optimizer=request.local_optimizer)
        weights, parts = self._fetched(request, phases)
        return compute(
            built.model,
            built.layout,
            weights,
            _batches(request, parts, built.model_input, phases),
            loss=loss,
            micro_batch=request.micro_batch,
            seed_of=lambda batch: batch_seed(request.seed, request.round, request.peer, batch),
        )

    def _used(self, phases: Phases) -> Usage:
        """Return what the request used, having fitted the cache to what the memory limit leaves above it.

        The cache may grow by half of the room that is left, so it never fills it: whether a limit is enough
        shows at the first request, not after a hundred. The room is taken from the working set after the
        request, for the allocator keeps what it has freed.
        """
        is_cold, self._is_cold = self._is_cold, False
        under_way = self._objects.bytes_under_way  # before the working set is read, which may have it by then
        used = usage(phases, is_cold_start=is_cold)
        if used.memory_limit_bytes and used.working_set_bytes:
            room = used.memory_limit_bytes - used.working_set_bytes - under_way
            self._objects.fit(max(0, room) // 2)
        return used

    def _model(self, spec: ModelSpec, data: DataParts, phases: Phases) -> _BuiltModel:
        check_allowed(spec, self._allowed_models)
        with phases.phase("load_model"):
            key = encode([spec, data.num_classes, data.shape]).decode()
            return self._models.get(key, 1, lambda: _build(spec, data))

    def _fetched(
        self, request: GradientRequest | EvaluateRequest, phases: Phases
    ) -> tuple[FlatState, list[preprocess.Records]]:
        """Return the request's weights, and its parts as `preprocess.as_records` does."""
        data = request.data
        with phases.phase("fetch"):
            weights, *parts = self._objects.get([request.weights, *data.parts])
            state = FlatState.from_tensors(tensors.decode(weights).tensors)
            return state, [preprocess.as_records(part, data) for part in parts]


def _batches(
    request: GradientRequest | EvaluateRequest,
    parts: list[preprocess.Records],
    model_input: ModelInput,
    phases: Phases,
    chunk: int = sys.maxsize,
) -> Iterator[LabelledBatch]:
    """Yield the request's batches, one in memory at a time; in pieces if they exceed `chunk` samples."""
    data = request.data
    for batch in request.batches:
        _check_ranges(batch.ranges, [len(part) for part in parts])
        records = preprocess.select(parts, batch.ranges)
        for start in range(0, len(records), chunk):
            with phases.phase("preprocess"):
                piece = records[start : start + chunk]
                labels = preprocess.labels_of(piece, data)
                inputs = preprocess.inputs_of(piece, data, model_input)
            yield LabelledBatch(batch.index, inputs, labels)


def _build(spec: ModelSpec, data: DataParts) -> _BuiltModel:
    # the weights are loaded next, so the random ones made here only must not disturb anybody's random state
    with torch.random.fork_rng(devices=[]):
        model = build(spec, data.num_classes)
    model_input = input_of(spec, model, data.shape)
    return _BuiltModel(model.to(memory_format=torch.channels_last), Layout.of(model), model_input)


def _encoded(result: GradientResult, request: GradientRequest, codec: Codec) -> tensors.EncodedTensors:
    gradient = Gradient(result.gradient, result.buffers, result.counters, result.training.num_samples)
    # attempts of one invocation have the same noise, so it does not matter which of them is taken
    seed = derive_seed("function", request.seed, request.round, request.peer, request.invocation)
    return encode_gradient(gradient, codec, Noise(seed))


def _check_ranges(ranges: list[tuple[int, int, int]], lengths: list[int]) -> None:
    if not ranges:
        raise FunctionRefused("a batch has no samples: send at least one (part, start, stop) range")
    for part, start, stop in ranges:
        if not (0 <= part < len(lengths) and 0 <= start < stop <= lengths[part]):
            raise FunctionRefused(
                f"range (part {part}, samples {start} to {stop}) is outside the request's parts, "
                f"which have {lengths[:20]} samples"
            )
