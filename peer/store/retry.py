"""Waiting with patience: jittered exponential back-off that starts at milliseconds."""

import random as random_module
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from peer.errors import PeerlessError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long to go on trying: waits grow from `first_seconds` to `longest_seconds`, each by `growth`.

    No wait ends after `total_seconds`; with 0 there is one try.
    """

    total_seconds: float
    first_seconds: float = 0.005
    longest_seconds: float = 1.0
    growth: float = 2.0


def is_retryable(error: PeerlessError) -> bool:
    """Return whether trying again may help, which the error's class tells."""
    return error.retryable


def retry(
    action: Callable[[], Result],
    patience: Patience,
    *,
    is_retryable: Callable[[PeerlessError], bool] = is_retryable,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = random_module.random,
    on_retry: Callable[[PeerlessError], None] | None = None,
) -> Result:
    """Return what `action` returns, called again after each retryable error until patience runs out.

    Args:
        action: may be called many times.
        patience: the last try begins when `total_seconds` are over, so `action` should have its own time-out.
        is_retryable: asked about each PeerlessError; other exceptions pass at once.
        clock: seconds, never backwards.
        sleep: waits for that many seconds.
        random: uniform in [0, 1); each wait is between half and all of its nominal length.
        on_retry: told of each error that another try follows.

    Raises:
        PeerlessError: the last one; if another try might have helped, its message says how many there
            were, and for how long. A signal (`StopRequested`) gives nothing up.
    """
    start = clock()
    nominal_seconds = patience.first_seconds
    num_tries = 0
    while True:
        num_tries += 1
        try:
            return action()
        except PeerlessError as error:
            waited_seconds = clock() - start
            if not is_retryable(error) or waited_seconds >= patience.total_seconds:
                if num_tries > 1 and error.retryable:
                    _say_waited(error, num_tries, waited_seconds)
                raise
            if on_retry is not None:
                on_retry(error)
        _wait(nominal_seconds, patience.total_seconds - waited_seconds, sleep, random)
        nominal_seconds = min(patience.growth * nominal_seconds, patience.longest_seconds)


def poll(
    probe: Callable[[], Result | None],
    patience: Patience,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = random_module.random,
) -> Result | None:
    """Return the first result of `probe` that is not None, or None once patience has run out.

    A retryable PeerlessError of `probe` counts as None, unless patience runs out with it: then it is raised,
    and its message says for how long was waited. Other errors pass at once. Arguments as in `retry`.
    """

    def probe_once() -> Result:
        result = probe()
        if result is None:
            raise _NothingYet
        return result

    try:
        return retry(probe_once, patience, clock=clock, sleep=sleep, random=random)
    except _NothingYet:
        return None


class _NothingYet(PeerlessError):
    retryable = True


def _wait(
    nominal_seconds: float,
    remaining_seconds: float,
    sleep: Callable[[float], None],
    random: Callable[[], float],
) -> None:
    sleep(min(nominal_seconds * (0.5 + random() / 2), remaining_seconds))


def _say_waited(error: PeerlessError, num_tries: int, waited_seconds: float) -> None:
    text = f"{error} (gave up after {num_tries} tries in {waited_seconds:.1f} s)"
    error.args = (text, *error.args[1:])
