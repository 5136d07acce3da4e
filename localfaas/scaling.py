"""How many replicas a function should have: pure functions of (now, state, options, load).

Source: https://docs.openfaas.com/architecture/autoscaling/. With a `com.openfaas.scale.type` label the number
follows the load, without one the rule of OpenFaaS' Community Edition holds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from localfaas.errors import BadRequest
from localfaas.quantities import parse_duration_seconds

ScaleType = Literal["capacity", "rps", "cpu"]

_PREFIX = "com.openfaas.scale."
_DEFAULT_MIN_REPLICAS, _DEFAULT_MAX_REPLICAS = 1, 5
_MAX_WHOLE = 10_000
_DEFAULT_TARGET = 50.0
_DEFAULT_FACTOR_PERCENT = 20
_DEFAULT_ZERO_SECONDS = 900.0
# Rates are means over this time; so long a function has to be busy for the Community Edition's rule.
_RATE_SECONDS = 5.0
_BUSY_REQUESTS_PER_SECOND = 5.0
_QUIET_SECONDS = 30.0
# Replicas that were needed within this time are kept, so that a load in waves does not start them anew.
_DOWN_SECONDS = 60.0


@dataclass(frozen=True)
class ScalingOptions:
    """What the labels of a function say of its replicas."""

    min_replicas: int = _DEFAULT_MIN_REPLICAS
    max_replicas: int = _DEFAULT_MAX_REPLICAS
    type: ScaleType | None = None
    """A replica's load is its requests in flight, requests a second, or thousandths of a core."""

    target: float = _DEFAULT_TARGET
    """The load that one replica is to have."""

    factor_percent: int = _DEFAULT_FACTOR_PERCENT
    """Of `max_replicas`: what the Community Edition's rule adds at a time; 0 switches it off."""

    is_idled: bool = False
    zero_seconds: float = _DEFAULT_ZERO_SECONDS
    """After so long without a request there is no replica, if `is_idled`."""


def parse_scaling_options(labels: Mapping[str, str]) -> ScalingOptions:
    """Return the options in a deployment's labels; the minimum is at most the maximum, that at least 1.

    Raises:
        BadRequest: a label cannot be read; names it.
    """
    max_replicas = max(1, _whole(labels, "max", _DEFAULT_MAX_REPLICAS))
    scale_type = labels.get(f"{_PREFIX}type") or None
    if scale_type is not None and scale_type not in get_args(ScaleType):
        raise BadRequest(f"label {_PREFIX}type is {scale_type!r}; it has to be capacity, rps or cpu")
    factor_percent = _whole(labels, "factor", _DEFAULT_FACTOR_PERCENT)
    if factor_percent > 100:
        raise BadRequest(
            f"label {_PREFIX}factor is {factor_percent}; it is per cent of the maximum, 0 to 100"
        )
    duration = labels.get(f"{_PREFIX}zero-duration")
    return ScalingOptions(
        min_replicas=min(_whole(labels, "min", _DEFAULT_MIN_REPLICAS), max_replicas),
        max_replicas=max_replicas,
        type=cast("ScaleType | None", scale_type),
        target=_target(labels),
        factor_percent=factor_percent,
        is_idled=labels.get(f"{_PREFIX}zero", "").lower() in ("1", "true"),
        zero_seconds=parse_duration_seconds(duration) if duration else _DEFAULT_ZERO_SECONDS,
    )


def _whole(labels: Mapping[str, str], name: str, default: int) -> int:
    text = labels.get(_PREFIX + name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_MAX_WHOLE)):
        raise BadRequest(
            f"label {_PREFIX}{name} is {text!r:.50}; it has to be a whole number up to {_MAX_WHOLE}"
        )
    return int(text)


def _target(labels: Mapping[str, str]) -> float:
    text = labels.get(f"{_PREFIX}target")
    if not text:
        return _DEFAULT_TARGET
    try:
        target = float(text)
    except ValueError:
        target = 0.0
    if not 0 < target < math.inf:
        raise BadRequest(f"label {_PREFIX}target is {text!r}; it has to be a number above zero")
    return target


@dataclass(frozen=True)
class Load:
    """What a function does at one moment."""

    replicas: int
    """Wanted now."""

    floor: int
    """What an operator asked for last; scaling does not go below."""

    num_in_flight: int
    """Requests that run or wait."""

    num_started: int
    """Requests that ever came."""

    cpu_seconds: float
    """Used ever, by all replicas."""


@dataclass(frozen=True)
class ScalingState:
    """What is remembered of a function between two decisions."""

    began_at: float
    busy_at: float
    """When there was a request last; at first, when it was looked at first."""

    hot_at: float
    """When the Community Edition's rule found it busy last."""

    stepped_at: float = -math.inf
    samples: tuple[tuple[float, int, float], ...] = ()
    """Time, requests ever, CPU seconds ever: of the last seconds, oldest first."""

    wanted: tuple[tuple[float, int], ...] = ()
    """Time and number of replicas that the load asked for, within the last minute."""

    @classmethod
    def fresh(cls, now: float) -> "ScalingState":
        """Return the state of a function that is looked at for the first time."""
        return cls(now, now, now)


@dataclass(frozen=True)
class Decision:
    """How many replicas, why, and what to remember."""

    replicas: int
    reason: str
    state: ScalingState = field(compare=False)


def decide(now: float, state: ScalingState, options: ScalingOptions, load: Load, room: int) -> Decision:
    """Return how many replicas a function should have.

    Args:
        now: seconds, of any clock that does not go back.
        state: of the last decision on this function.
        options: the function's.
        load: of this moment.
        room: the most replicas that the machine has room for; what runs already is never ended for it.

    Returns:
        A decision whose number is `load.replicas` where nothing is to be done.
    """
    state = _observed(now, state, load)
    if load.replicas == 0:
        return Decision(0, "it sleeps until a request comes", state)
    if options.is_idled and now - state.busy_at >= options.zero_seconds:
        return Decision(0, f"no request for {options.zero_seconds:g} s", state)
    if options.type is None:
        return _by_rate(now, state, options, load, room)
    return _by_load(now, state, options, load, room)


def lowest_replicas(options: ScalingOptions, floor: int) -> int:
    """Return the fewest replicas of a function that does not sleep."""
    return min(max(1, options.min_replicas, floor), options.max_replicas)


def _observed(now: float, state: ScalingState, load: Load) -> ScalingState:
    has_request = load.num_in_flight > 0 or (bool(state.samples) and load.num_started > state.samples[-1][1])
    samples = (*state.samples, (now, load.num_started, load.cpu_seconds))
    # The youngest of those that are old enough is kept: rates are over the whole time.
    while len(samples) > 1 and samples[1][0] <= now - _RATE_SECONDS:
        samples = samples[1:]
    return replace(state, samples=samples, busy_at=now if has_request else state.busy_at)


def _by_rate(now: float, state: ScalingState, options: ScalingOptions, load: Load, room: int) -> Decision:
    """Decide by the Community Edition's rule: up in steps while busy, back to the least afterwards."""
    rate, _ = _rates(state)
    text = f"{rate:.1f} requests a second"
    if rate > _BUSY_REQUESTS_PER_SECOND:
        state = replace(state, hot_at=now)
        is_due = state.samples[0][0] <= now - _RATE_SECONDS and now - state.stepped_at >= _RATE_SECONDS
        step = math.ceil(options.max_replicas * options.factor_percent / 100)
        if is_due and step:
            replicas = _upwards(load.replicas + step, options, load, room)
            return Decision(replicas, text, replace(state, stepped_at=now))
    elif now - state.hot_at >= _QUIET_SECONDS:
        lowest = min(load.replicas, lowest_replicas(options, load.floor))
        return Decision(lowest, f"{text}, and few for {_QUIET_SECONDS:g} s", state)
    return Decision(load.replicas, text, state)


def _by_load(now: float, state: ScalingState, options: ScalingOptions, load: Load, room: int) -> Decision:
    """Decide by the load: up at once, down to the most that the last minute asked for."""
    rate, cores = _rates(state)
    amount, unit = {
        "capacity": (float(load.num_in_flight), "requests in flight"),
        "rps": (rate, "requests a second"),
        "cpu": (1_000 * cores, "thousandths of a core"),
    }[options.type or "capacity"]
    wanted = max(math.ceil(amount / options.target), lowest_replicas(options, load.floor))
    recent = tuple(pair for pair in state.wanted if pair[0] > now - _DOWN_SECONDS)
    state = replace(state, wanted=(*recent, (now, wanted)))
    text = f"{amount:.4g} {unit}, a replica for {options.target:g}"
    most = max(number for _, number in state.wanted)
    if wanted > load.replicas:
        return Decision(_upwards(wanted, options, load, room), text, state)
    if most < load.replicas and now - state.began_at >= _DOWN_SECONDS:
        return Decision(most, f"{text}, and no more for {_DOWN_SECONDS:g} s", state)
    return Decision(load.replicas, text, state)


def _upwards(wanted: int, options: ScalingOptions, load: Load, room: int) -> int:
    return max(load.replicas, min(wanted, options.max_replicas, room))


def _rates(state: ScalingState) -> tuple[float, float]:
    """Return requests a second and cores in use, means over the samples."""
    (first_at, first_started, first_cpu), (last_at, last_started, last_cpu) = (
        state.samples[0],
        state.samples[-1],
    )
    seconds = last_at - first_at
    if seconds <= 0:
        return 0.0, 0.0
    # Counters begin anew where a function was removed and deployed again.
    return max(0, last_started - first_started) / seconds, max(0.0, last_cpu - first_cpu) / seconds
