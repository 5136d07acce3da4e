"""What the page shows, as `/api/state` answers it: plain numbers with units in their names, times since 1970.

None means "not known", which is never shown as 0.
"""

from peer.messages import Message
from peer.records.phases import PHASES

API_VERSION = 1


class Source(Message, frozen=True):
    """Something that is read: `status` is ok, absent (there is none) or failed (it does not answer)."""

    name: str
    status: str
    text: str
    read_at: float | None = None


class Finding(Message, frozen=True):
    """Something that is wrong: `severity` is error or warning; `remedy` says what to do."""

    severity: str
    subject: str
    text: str
    remedy: str = ""


class RunState(Message, frozen=True):
    """The run that is shown. `status` is created, running, finished, stopped, failed, lost or unknown."""

    name: str
    status: str
    dataset: str = ""
    model: str = ""
    compute: str = ""
    exchange: str = ""
    num_peers: int = 0
    rounds_planned: int = 0
    rounds_done: int = 0
    batch_size: int = 0
    batches_per_round: int = 0
    started_at: float | None = None
    elapsed_seconds: float | None = None
    remaining_seconds: float | None = None
    round_seconds: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    reason: str = ""


class Curves(Message, frozen=True):
    """One value a point of `rounds`; a point is the mean of `rounds_a_point` rounds, of all peers."""

    rounds: list[int] = []
    rounds_a_point: int = 1
    loss: list[float | None] = []
    accuracy: list[float | None] = []
    validation_loss: list[float | None] = []
    validation_accuracy: list[float | None] = []
    phase_seconds: dict[str, list[float | None]] = {}


RECENT_SECONDS = 300.0
"""For so long a function that ran out of memory is told of."""


class OomMark(Message, frozen=True):
    """A recent moment in which replicas of a function ran out of memory, and what their limit was."""

    time: float
    kills: int
    limit_bytes: float | None = None


class FunctionState(Message, frozen=True):
    """One function. Memory of one replica is that of the fullest; rates are over the last half minute.

    `pressure_ratio` is the share of time in which some process of it waited for memory; where the kernel
    does not tell, `reclaims_per_second` and `major_faults_per_second` stand in, and `pressure_source` says
    so. `memory_ratios` has one value every `SECONDS_A_POINT` seconds, the newest last.
    """

    name: str
    replicas: int | None = None
    replicas_available: int | None = None
    in_flight: int | None = None
    waiting: int | None = None
    working_set_bytes: float | None = None
    working_set_total_bytes: float | None = None
    limit_bytes: float | None = None
    peak_bytes: float | None = None
    memory_ratio: float | None = None
    pressure_source: str = ""
    pressure_ratio: float | None = None
    reclaims_per_second: float | None = None
    major_faults_per_second: float | None = None
    oom_kills: int | None = None
    oom_marks: list[OomMark] = []
    cold_starts: int | None = None
    cold_start_seconds: float | None = None
    cpu_cores: float | None = None
    memory_ratios: list[float | None] = []


class InvocationRow(Message, frozen=True):
    """Invocations of one function since its gateway started or it was deployed; seconds of those with 2xx."""

    function: str
    count: int
    per_second: float | None
    errors_by_code: dict[str, int]
    num_errors: int
    p50_seconds: float | None
    p95_seconds: float | None


class LaneRound(Message, frozen=True):
    """One round of one peer: when it ended, and its seconds by phase, in the order of `State.phases`."""

    round: int
    ended_at: float
    seconds: list[float]


class PeerLane(Message, frozen=True):
    """One peer. `own_seconds` is a round without what the peer waits for the others.

    Seconds are means of its last rounds; counts are of the run. `origin` is `rounds.jsonl` or `/metrics`,
    where rounds between two readings are shown as their mean.
    """

    peer: int
    status: str
    host: str = ""
    round: int | None = None
    origin: str = ""
    round_seconds: float | None = None
    own_seconds: float | None = None
    is_slow: bool = False
    invocations: int = 0
    cold_starts: int = 0
    retries: dict[str, int] = {}
    object_bytes: dict[str, int] = {}
    peak_function_bytes: int = 0
    phase_seconds: list[float] = []
    rounds: list[LaneRound] = []


class State(Message, frozen=True):
    """Everything on the page."""

    now: float
    server: str
    is_following: bool
    sources: list[Source]
    findings: list[Finding]
    run: RunState | None
    curves: Curves
    functions: list[FunctionState]
    invocations: list[InvocationRow]
    retries: dict[str, int]
    peers: list[PeerLane]
    phases: tuple[str, ...] = PHASES
    api: int = API_VERSION
