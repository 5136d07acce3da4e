"""What a plan is made from, and what it says: measured seconds and bytes, a run, bounds; a choice."""

from dataclasses import dataclass

from peer.messages import Message

TARGETS = ("time", "memory", "cost")
"""What `--optimize` takes: the shortest round, the smallest memory limit, the fewest GB-seconds."""


class Passes(Message, frozen=True, forbid_unknown_fields=False):
    """One batch, computed in passes of so many samples: the shortest and the least that was seen.

    `batch_seconds` is preprocessing, forward and backward of the whole batch; `working_set_bytes` is the
    replica's afterwards, 0 where the kernel does not tell.
    """

    samples: int
    batch_seconds: float
    working_set_bytes: int = 0


class Measured(Message, frozen=True, forbid_unknown_fields=False):
    """What invocations of one batch took, one at a time, on a gateway that did little else.

    `passes` are two, or one where batches cannot be split; fewest samples first. A warm invocation takes
    `upload_seconds` (its result) and `request_seconds` (gateway, reply, and the result's way to the peer)
    besides its batches. `fetch_seconds` (weights and samples) a replica needs once a round. Of a cold start,
    `cold_seconds` is all that it took longer, 0 if none was seen, and `load_seconds` the model's part of it.
    `data_bytes` are the stored parts that the batch was taken from, which a replica holds while it computes.
    """

    gateway: str
    versions: dict[str, str]
    passes: list[Passes]
    fetch_seconds: float = 0.0
    upload_seconds: float = 0.0
    request_seconds: float = 0.0
    cold_seconds: float = 0.0
    load_seconds: float = 0.0
    data_bytes: int = 0


@dataclass(frozen=True)
class Shape:
    """One round of a run.

    Attributes:
        num_peers: P.
        num_batches: of the largest shard.
        batch_size: samples of a batch.
        gradient_bytes: of one result.
        shard_bytes: of the stored parts that the largest shard is in.
        largest_pass: samples of a pass that has fitted; `batch_size` if whole batches do.
        indivisible_layer: why no batch may be split; empty if batches may be.
        batches_per_invocation: that the user asked for, 0 if the plan chooses.
        micro_batch: likewise.
    """

    num_peers: int
    num_batches: int
    batch_size: int
    gradient_bytes: int
    shard_bytes: int
    largest_pass: int
    indivisible_layer: str = ""
    batches_per_invocation: int = 0
    micro_batch: int = 0


@dataclass(frozen=True)
class Caps:
    """What a plan has to keep to.

    Attributes:
        replicas: of the function now.
        most_replicas: that the plan may ask for; 0 if they stay as they are.
        limit_bytes: the function's memory limit now, 0 if it has none or it is not known.
        largest_limit_bytes: that the plan may set, 0 if the limit stays.
        cores: of the gateway's machine, 0 if it does not say.
        available_bytes: memory that more replicas may take there, 0 if it does not say.
        timeout_seconds: of the function; no packed invocation takes more than half of it.
    """

    replicas: int
    most_replicas: int
    limit_bytes: int
    largest_limit_bytes: int
    cores: int
    available_bytes: int
    timeout_seconds: float


class Plan(Message, frozen=True):
    """What was chosen for a target, and what is to be expected of it.

    `micro_batch` is samples of a pass, 0 for whole batches; `limit_bytes` is 0 where there is no limit.
    Predicted are the seconds of one invocation and of a round, of all replicas in a round
    (`function_seconds`), these times the limit (`gb_seconds`, of 2^30 bytes), and a replica's working set.
    `reasons` are lines for people, one a choice.
    """

    target: str
    batches_per_invocation: int
    replicas: int
    micro_batch: int
    limit_bytes: int
    invocation_seconds: float
    round_seconds: float
    function_seconds: float
    gb_seconds: float
    peak_bytes: int
    reasons: list[str] = []
