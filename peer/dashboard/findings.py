"""What is wrong now, said in a line with its remedy: pure functions of what is shown."""

from collections.abc import Iterator, Sequence

from peer.dashboard.state import Curves, Finding, FunctionState, InvocationRow, PeerLane, RunState, Source

_NEAR_LIMIT_RATIO = 0.9
_PRESSURE_RATIO = 0.1
_RECLAIMS_PER_SECOND = 10.0
_ERRORS_RATIO = 0.05
_LEAST_ERRORS = 3
_STALLED_ROUNDS = 6.0
_STALLED_SECONDS = 15.0
_DIVERGED_RATIO = 2.0
_SMOOTHED_POINTS = 5

_RAISE = (
    "train with --largest-memory, raise limits.memory in stack.yml and deploy again, or take a smaller "
    "--batch-size or --micro-batch"
)


def find(
    now: float,
    sources: Sequence[Source],
    run: RunState | None,
    curves: Curves,
    functions: Sequence[FunctionState],
    invocations: Sequence[InvocationRow],
    peers: Sequence[PeerLane],
    last_round_at: float | None,
) -> list[Finding]:
    """Return what is wrong, errors first."""
    found = [
        *_of_run(now, run, last_round_at),
        *_of_functions(functions),
        *_of_invocations(invocations),
        *_of_peers(run, peers),
        *_of_loss(run, curves),
        *_of_sources(sources),
    ]
    return sorted(found, key=lambda finding: finding.severity != "error")


def _of_run(now: float, run: RunState | None, last_round_at: float | None) -> Iterator[Finding]:
    if run is None:
        return
    again = f"go on with `peerless resume {run.name}`"
    if run.status in ("failed", "lost"):
        yield Finding("error", f"run {run.name}", run.reason or f"the run is {run.status}", again)
    if run.status == "running" and last_round_at is not None:
        still_seconds = now - last_round_at
        if still_seconds > max(_STALLED_SECONDS, _STALLED_ROUNDS * (run.round_seconds or 0.0)):
            text = f"no round has ended for {still_seconds:.0f} s"
            yield Finding("warning", f"run {run.name}", text, "the peers' logs in the run's folder say why")


def _of_functions(functions: Sequence[FunctionState]) -> Iterator[Finding]:
    for function in functions:
        limit = f"its limit of {_mebibytes(function.limit_bytes)}"
        if function.oom_marks:
            yield _out_of_memory(function)
        elif function.memory_ratio is not None and function.memory_ratio >= _NEAR_LIMIT_RATIO:
            text = f"uses {function.memory_ratio:.0%} of {limit}"
            yield Finding("warning", f"function {function.name}", text, _RAISE)
        if function.pressure_ratio is not None and function.pressure_ratio >= _PRESSURE_RATIO:
            text = f"waits for memory {function.pressure_ratio:.0%} of the time"
            yield Finding("warning", f"function {function.name}", text, _RAISE)
        elif (
            function.pressure_ratio is None and (function.reclaims_per_second or 0.0) >= _RECLAIMS_PER_SECOND
        ):
            text = f"reaches {limit} {function.reclaims_per_second:.0f} times a second"
            yield Finding("warning", f"function {function.name}", text, _RAISE)
        if function.replicas and function.replicas_available == 0:
            text = f"has none of its {function.replicas} replicas"
            yield Finding("error", f"function {function.name}", text, "the gateway's log says why")


def _out_of_memory(function: FunctionState) -> Finding:
    """Return what to tell of a function that was killed: a limit that was raised since may do already."""
    kills, last = sum(mark.kills for mark in function.oom_marks), function.oom_marks[-1]
    text = f"ran out of memory {'once' if kills == 1 else f'{kills} times'} in the last 5 minutes"
    now = _mebibytes(function.limit_bytes)
    if (last.limit_bytes or 0.0) < (function.limit_bytes or 0.0) and last.limit_bytes:
        text = f"{text}, at a limit of {_mebibytes(last.limit_bytes)}; it has {now} now"
        return Finding("warning", f"function {function.name}", text)
    return Finding("error", f"function {function.name}", f"{text}, at its limit of {now}", _RAISE)


def _of_invocations(invocations: Sequence[InvocationRow]) -> Iterator[Finding]:
    for row in invocations:
        if row.num_errors >= _LEAST_ERRORS and row.num_errors > _ERRORS_RATIO * row.count:
            codes = ", ".join(
                f"{count} × {code}" for code, count in row.errors_by_code.items() if code != "429"
            )
            text = f"{row.num_errors} of {row.count} invocations failed ({codes})"
            yield Finding("warning", f"function {row.function}", text, "its log says why: faas-cli logs")


def _of_peers(run: RunState | None, peers: Sequence[PeerLane]) -> Iterator[Finding]:
    if run is None or run.status != "running":
        return
    for lane in peers:
        if lane.is_slow and lane.own_seconds is not None:
            text = f"keeps the others waiting: {lane.own_seconds:.2f} s of its own work a round"
            yield Finding("warning", f"peer {lane.peer}", text, "its lane shows in which phase")


def _of_loss(run: RunState | None, curves: Curves) -> Iterator[Finding]:
    losses = [loss for loss in curves.loss if loss is not None]
    if run is None or len(losses) < 2 * _SMOOTHED_POINTS:
        return
    means = [
        sum(losses[start : start + _SMOOTHED_POINTS]) / _SMOOTHED_POINTS
        for start in range(len(losses) - _SMOOTHED_POINTS + 1)
    ]
    if means[-1] > _DIVERGED_RATIO * min(means) and means[-1] > means[0]:
        text = f"the loss rises: {means[-1]:.3g} now, {min(means):.3g} at its best"
        yield Finding("warning", f"run {run.name}", text, "take a smaller --learning-rate")


def _of_sources(sources: Sequence[Source]) -> Iterator[Finding]:
    for source in sources:
        if source.status == "failed":
            yield Finding("warning", source.name, source.text)


def _mebibytes(num_bytes: float | None) -> str:
    return "memory" if not num_bytes else f"{num_bytes / (1 << 20):.0f} MiB"
