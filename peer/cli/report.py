"""What a person reads at the end of a run."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peer.allocation.adaptation import described
from peer.compression.names import NONE
from peer.records.phases import WAIT
from peer.records.rounds import mean_staleness

if TYPE_CHECKING:
    from peer.records.summary import Summary
    from peer.runs import RunListing

_BAR_WIDTH = 30
_MOST_ADAPTATIONS = 8
_TITLES = {"put": "sent", "get": "fetched", "function_put": "sent by functions"}
_WIDTH = 80


def print_summary(summary: "Summary", directory: Path | None = None) -> None:
    """Print a summary on stdout: result, time by phase, what it took, where the files are, what next.

    No line is longer than 80 columns, unless a name in it is.
    """
    rule = "─" * min(shutil.get_terminal_size().columns, _WIDTH)
    where = "by functions" if summary.compute == "functions" else "by the peers"
    accuracy = "no test split" if summary.test_accuracy is None else f"{summary.test_accuracy:.2%}"
    click.echo(f"\n{rule}\n{click.style(summary.run, bold=True)}")
    click.echo(f"{summary.model} on {summary.dataset}, {summary.num_peers} peers, gradients {where}\n{rule}")
    _line("test accuracy", click.style(accuracy, bold=True, fg="green") + _loss(summary.test_loss))
    _line("trained", f"{summary.train_seconds:.1f} s, {summary.rounds} rounds, {summary.epochs:.2f} epochs")
    if summary.stop_reason:
        _line("stopped early", summary.stop_reason)
    click.echo()
    _phases(summary)
    click.echo()
    if summary.compute == "functions":
        _line("invocations", f"{summary.invocations:,}, {summary.cold_starts} of them cold starts")
        _line("retries", _counted(summary.retries))
        if summary.hedges:
            _line("hedges", f"{summary.hedges} of stragglers; {summary.hedges_won} had the first result")
        _line("function memory", f"{summary.peak_function_mb:.0f} MiB at its peak")
        _fullest(summary)
        _adapted(summary)
        _planned(summary)
    _slowest(summary)
    moved = [
        f"{_megabytes(summary.object_bytes[kind])} {title}"
        for kind, title in _TITLES.items()
        if summary.object_bytes.get(kind)
    ]
    _line("bytes", ", ".join(moved) or "none")
    if summary.compression != NONE:
        text = f"{summary.compression}, gradients {summary.compression_ratio:.2f} times smaller"
        _line("compression", f"{text}: {_megabytes(summary.exchange_bytes)}")
    if summary.function_compression != NONE:
        _line("of functions", summary.function_compression)
    _line("weights", f"sha256 {summary.weights_sha256[:16]}…, the same on all {summary.num_peers} peers")
    if summary.staleness:
        _line("", "they depend on timing: another run of this kind has others")
        _late(summary)
    if directory is not None:
        _line("files", f"{shortest(directory)}/")
        _line("", "summary.json rounds.jsonl config.json model.safetensors")
    click.echo(rule)
    _next(summary)


def pace(staleness: int) -> str:
    """Return in one line how far apart peers may be, and what follows for a run's weights."""
    if not staleness:
        return "in step: each round waits for all peers; the same weights, bit for bit, each time"
    return f"at most {staleness} rounds apart; weights depend on timing: another run has others"


def shortest(path: Path) -> Path:
    """Return the path as it is shortest: relative to the working directory if it is below that."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve())
    except ValueError:
        return path


def describe_run(listing: "RunListing") -> str:
    """Return one line about a run."""
    config = listing.config
    checkpoint = "no checkpoint" if listing.round is None else f"checkpoint {listing.round}"
    return (
        f"{config.run:<40} {listing.state:<9} {checkpoint:<16} {config.model.name} on {config.dataset}, "
        f"{config.num_peers} peers, {config.rounds} rounds"
    )


def _line(title: str, text: str) -> None:
    click.echo(f"  {title:<16} {text}")


def _phases(summary: "Summary") -> None:
    longest = max(summary.phase_seconds.values(), default=0.0) or 1.0
    for phase, seconds in summary.phase_seconds.items():
        bar = "█" * round(_BAR_WIDTH * seconds / longest)
        share = seconds / summary.train_seconds if summary.train_seconds else 0.0
        _line(phase, f"{seconds:7.2f} s {share:5.1%}  {bar}")


def _fullest(summary: "Summary") -> None:
    """Name the function whose working set came nearest to its limit, and how it suffered."""
    known = {
        name: function.working_set_bytes / function.limit_bytes
        for name, function in summary.functions.items()
        if function.limit_bytes and function.working_set_bytes
    }
    if not known:
        return
    name = max(known, key=lambda each: known[each])
    function = summary.functions[name]
    used_mib, limit_mib = function.working_set_bytes >> 20, function.limit_bytes >> 20
    text = f"{name}, {used_mib} of {limit_mib} MiB ({known[name]:.0%})"
    if function.pressure_seconds is not None:
        text += f", waited {function.pressure_seconds:.1f} s"
    if function.out_of_memory:
        text += f", {function.out_of_memory} OOM"
    _line("fullest", text)


def _adapted(summary: "Summary") -> None:
    """Tell what the run has changed of itself; `summary.json` has the reasons."""
    shown = summary.adaptations[:_MOST_ADAPTATIONS]
    for number, adaptation in enumerate(shown):
        _line("" if number else "adapted", f"{described(adaptation)}, round {adaptation.round}")
    if len(summary.adaptations) > len(shown):
        _line("", f"and {len(summary.adaptations) - len(shown)} more, in summary.json")


def _planned(summary: "Summary") -> None:
    """Tell what the plan was, and what a round took beside what it predicted."""
    plan = summary.plan
    if plan is None:
        return
    passes = f"passes of {plan.micro_batch}" if plan.micro_batch else "whole batches"
    limit = f", {plan.limit_bytes >> 20} MiB" if plan.limit_bytes else ""
    replicas = "1 replica" if plan.replicas == 1 else f"{plan.replicas} replicas"
    _line(
        "planned",
        f"for {plan.target}: {plan.batches_per_invocation} an invocation, {replicas}, {passes}{limit}",
    )
    taken = summary.train_seconds / max(1, summary.rounds)
    _line("", f"{plan.round_seconds:.3g} s a round were predicted, {taken:.3g} s taken, evaluations included")


def _slowest(summary: "Summary") -> None:
    """Name the peer that held the others up most, who wait for it."""
    own = {phase: slowest for phase, slowest in summary.slowest.items() if phase != WAIT}
    if not own:
        return
    phase = max(own, key=lambda each: own[each].seconds - own[each].median_seconds)
    slowest = own[phase]
    text = f"peer {slowest.peer}, {phase} {slowest.seconds:.1f} s; median {slowest.median_seconds:.1f} s"
    _line("slowest", text)


def _late(summary: "Summary") -> None:
    """Tell how many rounds late gradients of others were applied."""
    on_time = summary.late[0] / max(1, sum(summary.late)) if summary.late else 0.0
    text = f"{mean_staleness(summary.late):.2f} in the mean, at most {summary.staleness}"
    _line("rounds late", f"{text}; {on_time:.0%} of gradients not at all")


def _next(summary: "Summary") -> None:
    _line("next", "peerless train --help            more models and datasets")
    if summary.compute == "functions":
        _line("", "peerless train --compute local   the same without functions")
    _line("", f"peerless runs show {summary.run}")


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"   loss {loss:.4f}"


def _counted(retries: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(retries.items())) or "none"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
