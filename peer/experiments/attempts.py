"""The invocations of one measurement: what they gave and used, and how they ended."""

from peer.errors import FunctionError, OutOfMemory, PeerlessError
from peer.experiments.memory_records import Outcome
from peer.messages import Usage
from peer.records.rounds import Work


class Attempts(Work):
    """Counts as `Work` does, and keeps what a measurement is made of.

    Args:
        reason: why nothing was invoked, "" if a replica is there.

    Attributes:
        seconds: of each invocation that gave a result, from the request to the checked result.
        usages: what each valid reply says.
        retries: by error, the attempts that were repeated.
        reason: of the end, "" if nothing was given up.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__()
        self.reason = reason
        self.seconds: list[float] = []
        self.usages: list[Usage] = []
        self.retries: dict[str, int] = {}
        self._is_given_up_for_memory = False

    def add_reply(self, function: str, usage: Usage) -> None:
        """Keep what one valid reply says."""
        super().add_reply(function, usage)
        self.usages.append(usage)

    def add_retry(self, error: PeerlessError) -> None:
        """Count an attempt that is repeated."""
        super().add_retry(error)
        name = type(error).__name__
        self.retries[name] = self.retries.get(name, 0) + 1

    def give_up(self, error: FunctionError) -> None:
        """Note that no more invocations follow, and why."""
        self.reason = str(error)
        self._is_given_up_for_memory = isinstance(error, OutOfMemory)

    @property
    def has_run_out(self) -> bool:
        """Whether an attempt ran out of memory, whatever came after it."""
        return self._is_given_up_for_memory or OutOfMemory.__name__ in self.retries

    @property
    def outcome(self) -> Outcome:
        """How they ended together."""
        if self._is_given_up_for_memory:
            return "out_of_memory"
        if self.reason:
            return "failed"
        return "retried" if self.has_run_out else "ok"

    def were_under(self, limit_bytes: int) -> bool:
        """Return whether every replica that replied was limited to this, as far as it could tell."""
        return all(usage.memory_limit_bytes in (0, limit_bytes) for usage in self.usages)
