"""What peers, functions and manifests say to each other: typed, versioned, JSON (PROTOCOL.md).

Unknown fields are refused, so that two versions that differ notice it in the first message.
"""

from typing import Any, Literal, TypeVar

import msgspec

from peer.errors import ObjectCorrupt

PROTOCOL_VERSION = 1

MessageType = TypeVar("MessageType")

Adaptable = Literal["memory_limit", "micro_batch", "in_flight"]
"""What a run may change of itself."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON object with exactly these fields."""


class ModelSpec(Message, frozen=True):
    """Which model: a built-in name or `package.module:factory`, and its keyword arguments."""

    name: str
    arguments: dict[str, Any] = {}


class OptimizerSpec(Message, frozen=True):
    """Which optimizer; `momentum` and `nesterov` are SGD's settings, `betas` and `epsilon` AdamW's."""

    name: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


class RemoteObject(Message, frozen=True):
    """An object that the receiver may read: a presigned GET URL, its length and what identifies its bytes."""

    url: str
    length: int
    checksum: str


class DataParts(Message, frozen=True):
    """The parts that a request's batches point into, and how to read their records.

    A record is one label of `label_bytes` bytes (little-endian) and then `prod(shape)` bytes of uint8 pixels.
    `mean` and `std` are a channel each, for pixels scaled to [0, 1].
    """

    shape: tuple[int, int, int]
    label_bytes: int
    num_classes: int
    mean: list[float]
    std: list[float]
    parts: list[RemoteObject]


class Batch(Message, frozen=True):
    """The samples of one gradient: `(part, start, stop)` ranges, in order; `index` seeds what is random."""

    index: int
    ranges: list[tuple[int, int, int]]


class SamplesRequest(Message, frozen=True, kw_only=True):
    """What every request says: who asks, for which samples, at which weights of which model.

    With a `reply_url`, the reply is put there as a `StoredReply`: whoever asked does not wait for it.
    """

    protocol: int
    run: str
    round: int
    peer: int
    invocation: int
    attempt: str
    model: ModelSpec
    loss: str
    weights: RemoteObject
    data: DataParts
    batches: list[Batch]
    reply_url: str = ""


class GradientRequest(SamplesRequest, frozen=True, kw_only=True):
    """Compute the mean gradient of these batches at these weights, and put it under `result_url`.

    With `local_optimizer`: take a step of it a batch instead, and put there how far they moved the weights.
    What is put is compressed by `codec`, one without a memory. `next_parts` are what the same invocation of
    this peer's next round needs and this one does not: they may be fetched once the gradient is put.
    """

    micro_batch: int
    seed: int
    result_url: str
    local_optimizer: OptimizerSpec | None = None
    codec: str = "none"
    next_parts: list[RemoteObject] = []


class EvaluateRequest(SamplesRequest, frozen=True):
    """Count the loss and the correct predictions of these ranges at these weights."""


class WeightedObject(Message, frozen=True):
    """A gradient, or a part of one, that the receiver may read, and the samples that it is the mean of."""

    object: RemoteObject
    num_samples: int


class AggregateRequest(Message, frozen=True):
    """Fold these parts of gradients, in this order, into their mean, and put it under `result_url`.

    The parts are compressed by `codec`; the mean is not.
    """

    protocol: int
    run: str
    round: int
    peer: int
    invocation: int
    attempt: str
    parts: list[WeightedObject]
    result_url: str
    codec: str = "none"
    reply_url: str = ""


class Usage(Message, frozen=True):
    """What one invocation used. Seconds by phase; memory in bytes, 0 where the kernel does not tell.

    Pressure, reclaims, faults and CPU are of this invocation; pressure is None where the kernel has no such
    figure.
    """

    phase_seconds: dict[str, float]
    peak_rss_bytes: int
    cgroup_usage_bytes: int
    cgroup_limit_bytes: int
    is_cold_start: bool
    replica: str
    memory_limit_bytes: int = 0
    working_set_bytes: int = 0
    memory_pressure_seconds: float | None = None
    memory_reclaims: int = 0
    major_faults: int = 0
    cpu_seconds: float = 0.0


class Evaluation(Message, frozen=True):
    """Sums over samples, so that parts of a split add up."""

    num_samples: int
    num_correct: int
    loss_sum: float


class GradientReply(Message, frozen=True):
    """The gradient lies under the request's result URL, with this length and xxh3-128 checksum."""

    length: int
    checksum: str
    training: Evaluation
    usage: Usage


class EvaluateReply(Message, frozen=True):
    """The evaluation of the request's samples."""

    evaluation: Evaluation
    usage: Usage


class AggregateReply(Message, frozen=True):
    """The mean lies under the request's result URL, with this length and xxh3-128 checksum."""

    length: int
    checksum: str
    num_samples: int
    usage: Usage


class Refusal(Message, frozen=True):
    """The body of every error reply of a function. `error` is a stable name, `message` says what to do."""

    error: str
    message: str
    speaks: list[int] = []


class StoredReply(Message, frozen=True):
    """What an asynchronous call was answered: its status, and the JSON that a caller who waits would get."""

    status: int
    reply: msgspec.Raw


class Adaptation(Message, frozen=True):
    """What a run changed of itself, when and why; `times` counts equal changes.

    `before` and `after` are bytes of the function's memory limit, samples of a micro-batch, or invocations of
    the peer at once (`in_flight`). A change before the first round is peer 0's, in round 0.
    """

    what: Adaptable
    function: str
    peer: int
    round: int
    before: int
    after: int
    reason: str
    times: int = 1


class StoredObject(Message, frozen=True):
    """An object that a manifest vouches for."""

    key: str
    length: int
    checksum: str


class PeerManifest(Message, frozen=True):
    """One peer's part of one round, written after the objects that it names.

    `weights_sha256` is what the gradient was computed at; `validation` and `test` are this peer's part of the
    split, evaluated at the same weights; `stop` is the number of a signal that asked this peer to stop, or 0;
    `micro_batch` is what its last batches were split into, 0 for whole ones.
    """

    run: str
    generation: int
    round: int
    peer: int
    incarnation: str
    weights_sha256: str
    cpu: str
    parts: list[StoredObject] = []
    num_samples: int = 0
    training: Evaluation | None = None
    validation: Evaluation | None = None
    test: Evaluation | None = None
    stop: int = 0
    micro_batch: int = 0


class ReducedManifest(Message, frozen=True):
    """Where one peer's share of a round's mean lies, written by that peer after the share itself."""

    run: str
    generation: int
    round: int
    peer: int
    incarnation: str
    parts: list[StoredObject]


class ResidualManifest(Message, frozen=True):
    """Where one peer's residual before a round lies, written by the peer after the residual itself."""

    run: str
    generation: int
    round: int
    peer: int
    incarnation: str
    part: StoredObject


class MemberRecord(Message, frozen=True, forbid_unknown_fields=False):
    """Who holds a rank. Rewritten at every heartbeat; `state` is running, finished, stopped or failed.

    `metrics_url` is where Prometheus may scrape the peer, empty for nowhere. `short_of_memory` asks peer 0 to
    raise the limits of these functions above so many bytes. Fields that are not listed are ignored: records
    outlive the version that wrote them.
    """

    run: str
    peer: int
    generation: int
    incarnation: str
    counter: int
    host: str
    state: str
    resumed_round: int | None = None
    reason: str = ""
    metrics_url: str = ""
    short_of_memory: dict[str, int] = {}


def encode(message: Any) -> bytes:
    """Return `message` as JSON with sorted keys: equal messages are equal bytes."""
    return msgspec.json.encode(message, order="sorted")


def decode_stored(body: bytes, kind: type[MessageType], where: str) -> MessageType:
    """Return the message that is stored at `where`; ObjectCorrupt if it is not one of this kind."""
    try:
        return decode(body, kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ObjectCorrupt(f"{where} is no {kind.__name__}: {error}") from error


def decode(body: bytes, kind: type[MessageType]) -> MessageType:
    """Return `body` as a message of this kind.

    Raises:
        msgspec.ValidationError: not JSON of this form; the message says which field.
        msgspec.DecodeError: not JSON.
    """
    return msgspec.json.decode(body, type=kind)
