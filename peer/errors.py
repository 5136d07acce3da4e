"""Every error that peerless raises on purpose, with its exit code.

    PeerlessError                     1
    ├── ConfigurationError            2   an option, a file or a combination is wrong
    │   └── InvalidName               2   a name that may not become part of an object key
    ├── FileNotWritten                3   a file of a run: no room, or no permission
    ├── StoreError                    10
    │   ├── StoreUnreachable          11  retryable
    │   ├── StoreDenied               12  wrong credentials, or a signature refused
    │   ├── UrlExpired                12  retryable with a newly signed URL
    │   ├── StoreFull                 13
    │   ├── ObjectMissing             14
    │   ├── ObjectCorrupt             15  retryable; length or checksum differ from the manifest
    │   └── ClockSkewed               16
    ├── FunctionError                 20
    │   ├── GatewayUnreachable        21  retryable
    │   ├── GatewayDenied             22
    │   ├── FunctionMissing           23  not deployed
    │   ├── FunctionRefused           24  400, 403 or 409: asking again cannot help
    │   ├── FunctionBusy              25  retryable; 429
    │   ├── OutOfMemory               26  retryable; 507
    │   │   └── NothingFits           26  and nothing is left that could be adapted
    │   └── InvocationFailed          27  retryable; 5xx, time-out, lost replica
    │       └── LostReply             27  retryable; a bare 502, a reset connection: perhaps an OOM kill
    ├── DatasetError                  30  unknown, missing or corrupted
    ├── MembershipError               40
    │   ├── RankTaken                 41
    │   ├── PeerLost                  42
    │   ├── PeerDiverged              43
    │   └── ConfigurationDiffers      44
    ├── CheckpointError               45  nothing to resume from
    ├── TrainingDiverged              46  loss or gradient is not finite
    ├── PlatformError                 50  a part of the local platform does not start
    ├── ResultsDiffer                 60  two experiments, by more than their noise
    └── StopRequested                 130 or 143, after SIGINT or SIGTERM, once the checkpoint is written

Exit codes are part of the interface: they are documented in the README and never reused.
"""


class PeerlessError(Exception):
    """An error whose message says what happened, where, and what to do."""

    exit_code = 1
    retryable = False


class ConfigurationError(PeerlessError):
    """An option, a configuration file or a combination of them is wrong; nothing was started."""

    exit_code = 2


class InvalidName(ConfigurationError):
    """A name cannot become part of an object key; nothing was sent."""


class FileNotWritten(PeerlessError):
    """A file of a run cannot be written on this machine: its disk is full, or we may not."""

    exit_code = 3


class StoreError(PeerlessError):
    """The object store refused a request in a way that has no class of its own."""

    exit_code = 10


class StoreUnreachable(StoreError):
    """No connection, a connection lost half-way, or a 5xx answer."""

    exit_code = 11
    retryable = True


class StoreDenied(StoreError):
    """The credentials or a signature were refused.

    Args:
        code: the store's word for it, such as AccessDenied; empty where it has not come along.
    """

    exit_code = 12

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class UrlExpired(StoreError):
    """A presigned URL is past its validity; signing it again helps."""

    exit_code = 12
    retryable = True


class StoreFull(StoreError):
    """The store's disk is full."""

    exit_code = 13


class ObjectMissing(StoreError):
    """There is no object under this key."""

    exit_code = 14


class ObjectCorrupt(StoreError):
    """An object's length, checksum or form is not what its manifest says."""

    exit_code = 15
    retryable = True


class ClockSkewed(StoreError):
    """The local clock and the store's differ by more than signatures allow."""

    exit_code = 16


class FunctionError(PeerlessError):
    """A function or the gateway in front of it failed in a way that has no class of its own."""

    exit_code = 20


class GatewayUnreachable(FunctionError):
    """No connection to the gateway."""

    exit_code = 21
    retryable = True


class GatewayDenied(FunctionError):
    """The gateway refused the credentials."""

    exit_code = 22


class FunctionMissing(FunctionError):
    """The function is not deployed."""

    exit_code = 23


class FunctionRefused(FunctionError):
    """The function will answer the same every time: bad request, not allowed, other versions."""

    exit_code = 24


class FunctionBusy(FunctionError):
    """Every replica is busy and the queue is full; not counted as an error."""

    exit_code = 25
    retryable = True


class OutOfMemory(FunctionError):
    """The working set does not fit the function's memory limit.

    Args:
        limit_bytes: the limit of the replica that ran out, 0 if it is not known.
    """

    exit_code = 26
    retryable = True

    def __init__(self, message: str, limit_bytes: int = 0) -> None:
        super().__init__(message)
        self.limit_bytes = limit_bytes


class NothingFits(OutOfMemory):
    """A function runs out of memory, its limit may not rise, and its batches cannot be split any further."""

    retryable = False


class InvocationFailed(FunctionError):
    """An invocation ended without a valid reply."""

    exit_code = 27
    retryable = True


class LostReply(InvocationFailed):
    """A bare 502, or a connection that was reset: the second one of an invocation may be an OOM kill."""


class DatasetError(PeerlessError):
    """A dataset is unknown, missing or corrupted."""

    exit_code = 30


class MembershipError(PeerlessError):
    """The peers of a run cannot go on together."""

    exit_code = 40


class RankTaken(MembershipError):
    """Another live process holds this rank."""

    exit_code = 41


class PeerLost(MembershipError):
    """Another peer's heartbeat stands still, or it left with an error."""

    exit_code = 42


class PeerDiverged(MembershipError):
    """Another peer computed from other weights than this one."""

    exit_code = 43


class ConfigurationDiffers(MembershipError):
    """This peer's configuration is not the run's; the message names the keys."""

    exit_code = 44


class CheckpointError(PeerlessError):
    """The run has no complete checkpoint to resume from."""

    exit_code = 45


class TrainingDiverged(PeerlessError):
    """A loss or a gradient is not finite."""

    exit_code = 46


class PlatformError(PeerlessError):
    """A part of the local platform (store, gateway, function) does not start."""

    exit_code = 50


class ResultsDiffer(PeerlessError):
    """Figures of two experiments differ by more than the noise of their repeats; they were printed."""

    exit_code = 60


class StopRequested(PeerlessError):
    """A signal asked the run to stop; its checkpoint is written.

    Args:
        signal_number: SIGINT (exit code 130) or SIGTERM (143).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
