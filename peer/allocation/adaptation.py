"""A run adapts to its functions' memory instead of ending: limits rise if they may, else batches are split.

What is adapted, in which order, and what of it changes bits: docs/adaptation.md.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from peer.allocation.memory_limit import LimitHeld, Limits
from peer.config import RunConfig
from peer.errors import LostReply, NothingFits, OutOfMemory, PeerlessError
from peer.messages import Adaptable, Adaptation
from peer.sizes import mib

log = logging.getLogger(__name__)

_TRIES = 2
"""Attempts at the same sizes, the second on a fresh replica: as long as it may do, no bit is changed."""


class Adapter:
    """Decides what changes when a peer's invocations run out of memory. Safe between threads.

    Args:
        config: the run's.
        rank: this peer.
        limits: how limits rise.
        patience_seconds: how long replicas with too little memory may reply after a limit was, or was to be,
            raised by somebody else.
        on_adapted: told of each change, in the thread of the invocation that needed it.
        clock: seconds, never backwards.

    Attributes:
        limit_bytes: of the replica that last computed a gradient, 0 if it is not known.
    """

    def __init__(
        self,
        config: RunConfig,
        rank: int,
        limits: Limits,
        patience_seconds: float,
        on_adapted: Callable[[Adaptation], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._rank = rank
        self._limits = limits
        self._patience_seconds = patience_seconds
        self._on_adapted = on_adapted
        self._clock = clock
        self.limit_bytes = 0
        self._lock = threading.Lock()
        self._round = 0
        self._micro_batch = config.micro_batch
        self._settle()

    @property
    def micro_batch(self) -> int:
        """What batches are split into now, 0 for whole ones."""
        return self._micro_batch

    def begin(self, round_number: int, micro_batch: int) -> None:
        """Begin a round at the sizes that all peers have agreed on."""
        with self._lock:
            self._round = round_number
            self._micro_batch = micro_batch
            self._limits.begin()
            self._settle()

    @contextmanager
    def noticing(
        self, function: str, largest_batch: int = 0, which: tuple[int, int] = (0, 0)
    ) -> Iterator[int]:
        """Give the block the micro-batch to use; adapt if what it does runs out of memory.

        A lost reply is no reason, but the second one of an invocation counts as if memory had run out twice.

        Args:
            function: that the block invokes.
            largest_batch: samples of its largest batch, 0 where there is none to split.
            which: round and number of the invocation, of all its attempts.

        Raises:
            OutOfMemory: again, where another attempt may fit.
            NothingFits: where none does; says why the limit does not rise and the batches are not split.
            LostReply: again, if it is the first, or if nothing can be adapted to a second.
        """
        with self._lock:
            sizes, micro_batch, began = self._sizes, self._micro_batch, self._clock()
        try:
            yield micro_batch
        except OutOfMemory as error:
            with self._lock:
                if sizes is self._sizes:
                    self._ran_out(function, min(micro_batch or largest_batch, largest_batch), error)
            raise
        except LostReply as error:
            with self._lock:
                suspected = self._suspected((function, *which), began, error)
                if suspected is None:
                    raise
                if sizes is self._sizes:
                    num_samples = min(micro_batch or largest_batch, largest_batch)
                    self._adapt_to_suspicion(function, num_samples, suspected, error)
            raise suspected from error

    def asked(self, function: str, ran_out_bytes: int) -> None:
        """Raise a limit for another peer; only peer 0 is asked, and it waits for that peer's manifest."""
        with self._lock:
            try:
                reason = f"{function} of another peer ran out of memory at {mib(ran_out_bytes)}"
                if self._raise_limit(function, ran_out_bytes, reason):
                    self._settle()
            except PeerlessError as error:
                # the peer goes on asking, and in the end does without
                log.warning("another peer asks for more memory: %s", error)

    def changed_in_flight(self, before: int, after: int, reason: str) -> None:
        """Note that another number of this peer's invocations runs at once from now on."""
        self._tell("in_flight", "gradient", (before, after), reason)

    def _settle(self) -> None:
        """Forget attempts at other sizes; who began before now is not counted."""
        self._sizes = object()
        self._num_tries: dict[tuple[str, int], int] = {}
        self._waiting_since: float | None = None
        self._lost_at: dict[tuple[str, int, int], float] = {}

    def _suspected(self, which: tuple[str, int, int], began: float, error: LostReply) -> OutOfMemory | None:
        """Return what the second lost reply of an invocation counts as; None for the first.

        Attempts beside each other are one: a gateway that ends takes both.
        """
        if began < self._lost_at.setdefault(which, math.inf):
            self._lost_at[which] = min(self._clock(), self._lost_at[which])
            return None
        return OutOfMemory(f"{error}, twice: it may have run out of memory", self.limit_bytes)

    def _adapt_to_suspicion(
        self, function: str, num_samples: int, suspected: OutOfMemory, error: LostReply
    ) -> None:
        reason = f"the reply of {function} was lost {_TRIES} times, as if it ran out of memory"
        try:
            self._adapt(function, num_samples, reason, suspected)
        except NothingFits as nothing:
            raise LostReply(str(nothing)) from error

    def _ran_out(self, function: str, num_samples: int, error: OutOfMemory) -> None:
        # somebody else may have raised the limit, so attempts under each one count by themselves
        sizes = (function, error.limit_bytes)
        self._num_tries[sizes] = self._num_tries.get(sizes, 0) + 1
        if self._num_tries[sizes] < _TRIES:
            return
        reason = f"{function} ran out of memory {_TRIES} times"
        if error.limit_bytes:
            reason += f" at {mib(error.limit_bytes)}"
        self._adapt(function, num_samples, reason, error)

    def _adapt(self, function: str, num_samples: int, reason: str, error: OutOfMemory) -> None:
        try:
            if self._raise_limit(function, error.limit_bytes, reason):
                self._settle()
            elif self._has_waited():
                raise LimitHeld(f"the memory limit of {function} has not risen in time")
        except LimitHeld as held:
            self._split(function, num_samples, reason, error, held)
            self._settle()

    def _raise_limit(self, function: str, ran_out_bytes: int, reason: str) -> bool:
        rise = self._limits.raise_above(function, ran_out_bytes)
        if rise is None:
            return False
        self._tell("memory_limit", function, (rise.before_bytes, rise.after_bytes), reason)
        return True

    def _has_waited(self) -> bool:
        now = self._clock()
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since >= self._patience_seconds

    def _split(
        self, function: str, num_samples: int, reason: str, error: OutOfMemory, held: LimitHeld
    ) -> None:
        layer = self._config.indivisible_layer
        if not num_samples:
            unsplit = "only batches of gradients can be split"
        elif layer:
            unsplit = f"batches of {self._config.model.name} cannot be split: {layer} depends on all of one"
        elif num_samples == 1:
            unsplit = "even single samples do not fit"
        else:
            self._micro_batch = (num_samples + 1) // 2
            self._tell("micro_batch", function, (num_samples, self._micro_batch), reason)
            return
        text = f"{error}. Nothing is left to adapt: {held}; {unsplit}"
        raise NothingFits(text, error.limit_bytes) from error

    def _tell(self, what: Adaptable, function: str, sizes: tuple[int, int], reason: str) -> None:
        before, after = sizes
        adaptation = Adaptation(what, function, self._rank, self._round, before, after, reason)
        self._on_adapted(adaptation)


def described(adaptation: Adaptation) -> str:
    """Return what changed in a few words, without the reason."""
    before, after = adaptation.before, adaptation.after
    if adaptation.what == "memory_limit":
        text = f"memory limit of {adaptation.function} {mib(before)} → {mib(after)}"
    elif adaptation.what == "micro_batch":
        text = f"micro-batch {before} → {after} samples"
    else:
        text = f"invocations at once {before} → {after}"
    return f"{text}, {adaptation.times} times" if adaptation.times > 1 else text


def merged(adaptations: Iterable[Adaptation]) -> list[Adaptation]:
    """Return the adaptations in the order of rounds and peers; equal ones are one, with the first reason."""
    found: dict[tuple[str, str, int, int], Adaptation] = {}
    for each in sorted(adaptations, key=lambda each: (each.round, each.peer)):
        change = (each.what, each.function, each.before, each.after)
        first = found.get(change)
        found[change] = each if first is None else replace(first, times=first.times + each.times)
    return list(found.values())
