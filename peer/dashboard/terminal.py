"""The essentials of the page for a terminal: one frame of text from one state."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from peer.dashboard.state import Finding, FunctionState, InvocationRow, PeerLane, RunState, State

_BAR_WIDTH = 24
_STYLES = {"running": "blue", "finished": "green", "failed": "red", "lost": "red", "stopped": "yellow"}
_PHASE_STYLES = {
    "publish": "cyan",
    "evaluate": "magenta",
    "compute": "blue",
    "average": "red",
    "exchange": "yellow",
    "wait": "bright_black",
    "update": "white",
}


def frame(state: State) -> RenderableType:
    """Return what is shown of a state; what was read elsewhere is text, and no command to the terminal."""
    parts: list[RenderableType] = [*_run(state), *_findings(state.findings)]
    if state.functions:
        parts += ["", _functions(state.functions)]
    if state.peers:
        parts += ["", *_peers(state.phases, state.peers)]
    if state.invocations:
        parts += ["", _invocations(state.invocations)]
        retries = ", ".join(f"{count} × {reason}" for reason, count in state.retries.items())
        parts.append(_text(f"tried again in this run: {retries or 'none'}", "dim"))
    missing = [source for source in state.sources if source.status != "ok" and source.name != "peers"]
    parts += [_text(f"{source.name}: {source.text}", "dim") for source in missing]
    return Group(*parts)


def _run(state: State) -> list[RenderableType]:
    run = state.run
    if run is None:
        is_unknown = any(source.name == "store" and source.status == "failed" for source in state.sources)
        why = "the store does not answer" if is_unknown else "`peerless train` begins one"
        return [Text(f"no run {'is known' if is_unknown else 'yet'}: {why}", style="bold")]
    title = Text.assemble(_text(run.name, "bold"), "  ", _text(run.status, _STYLES.get(run.status, "")))
    return [title, _text(run.reason) if run.reason else _progress(run), _figures(run)]


def _progress(run: RunState) -> RenderableType:
    line = Table.grid(padding=(0, 2))
    left = "" if run.remaining_seconds is None else f"about {_duration(run.remaining_seconds)} left"
    line.add_row(
        ProgressBar(total=max(1, run.rounds_planned), completed=run.rounds_done, width=_BAR_WIDTH),
        f"round {run.rounds_done} of {run.rounds_planned}",
        left,
    )
    return line


def _figures(run: RunState) -> Text:
    found = [
        ("loss", run.loss, "{:.4f}"),
        ("accuracy", run.accuracy, "{:.2%}"),
        ("held-out", run.validation_accuracy, "{:.2%}"),
        ("test", run.test_accuracy, "{:.2%}"),
        ("a round", run.round_seconds, "{:.2f} s"),
    ]
    shown = [f"{name} {form.format(value)}" for name, value, form in found if value is not None]
    if run.elapsed_seconds is not None:
        minutes, seconds = divmod(round(run.elapsed_seconds), 60)
        # no unit, so that all figures have room in one line of 80 columns
        shown.append(f"elapsed {minutes // 60}:{minutes % 60:02}:{seconds:02}")
    return Text("  ".join(shown))


def _findings(findings: Sequence[Finding]) -> list[Text]:
    styles = {"error": "bold red", "warning": "yellow"}
    return [
        _text(f"! {finding.subject} {finding.text}", styles.get(finding.severity, "")) for finding in findings
    ]


def _functions(functions: Sequence[FunctionState]) -> Table:
    table = _table("function", "memory (one replica)", "peak", "pressure", "OOM", "up", "busy", "cold")
    table.padding = (0, 1, 0, 0)
    for item in functions:
        pressure = (
            f"{item.pressure_ratio:.1%}"
            if item.pressure_ratio is not None
            else _or_dash(item.reclaims_per_second, "{:.1f}/s")
        )
        table.add_row(
            _text(item.name),
            _gauge(item),
            _bytes(item.peak_bytes),
            pressure,
            Text(_or_dash(item.oom_kills), style="bold red" if item.oom_kills else ""),
            f"{_or_dash(item.replicas_available)}/{_or_dash(item.replicas)}",
            _or_dash(item.in_flight),
            _or_dash(item.cold_starts),
        )
    return table


def _gauge(item: FunctionState) -> Text:
    width = 10
    full = 0 if item.memory_ratio is None else min(width, round(width * item.memory_ratio))
    is_wrong = bool(item.oom_marks) or (item.memory_ratio or 0.0) >= 0.9
    limit = _bytes(item.limit_bytes) if item.limit_bytes else "no limit"
    return Text.assemble(
        ("█" * full, "red" if is_wrong else "blue"),
        ("░" * (width - full), "dim"),
        f" {_bytes(item.working_set_bytes)} of {limit}",
    )


def _peers(phases: Sequence[str], peers: Sequence[PeerLane]) -> list[RenderableType]:
    table = _table("peer", "a round, by phase", "most of it", "seconds", "own work", "round")
    longest = max((lane.round_seconds or 0.0 for lane in peers), default=0.0) or 1.0
    for lane in peers:
        bar = Text()
        for phase, seconds in zip(phases, lane.phase_seconds, strict=False):
            bar.append("█" * round(_BAR_WIDTH * seconds / longest), style=_PHASE_STYLES.get(phase, ""))
        name = f"{lane.peer} slow" if lane.is_slow else str(lane.peer)
        phase, most = max(zip(phases, lane.phase_seconds, strict=False), key=lambda pair: pair[1])
        share = f"{phase} {most / lane.round_seconds:.0%}" if lane.round_seconds else "–"
        table.add_row(
            Text(name, style="yellow" if lane.is_slow else ""),
            bar,
            share,
            _or_dash(lane.round_seconds, "{:.2f}"),
            _or_dash(lane.own_seconds, "{:.2f}"),
            "–" if lane.round is None else str(lane.round + 1),
        )
    legend = Text()
    for phase in phases:
        legend.append("█ ", style=_PHASE_STYLES.get(phase, "")).append(f"{phase}  ", style="dim")
    return [table, legend]


def _invocations(rows: Sequence[InvocationRow]) -> Table:
    table = _table("function", "invocations", "rate", "errors", "p50", "p95")
    for row in rows:
        codes = ", ".join(f"{count} × {code}" for code, count in row.errors_by_code.items())
        table.add_row(
            _text(row.function),
            str(row.count),
            _or_dash(row.per_second, "{:.1f}/s"),
            _text(codes or "none", "red" if row.num_errors else ""),
            _or_dash(row.p50_seconds, "{:.3f} s"),
            _or_dash(row.p95_seconds, "{:.3f} s"),
        )
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index < 2 else "right", no_wrap=True)
    return table


def _text(text: str, style: str = "") -> Text:
    return Text("".join(each if each.isprintable() else "�" for each in text), style=style)


def _or_dash(value: float | None, form: str = "{}") -> str:
    return "–" if value is None else form.format(value)


def _bytes(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / (1 << 30):.3g} GiB" if value >= 1 << 30 else f"{value / (1 << 20):.0f} MiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
