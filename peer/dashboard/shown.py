"""The run that is shown: what was seen of it so far, and what that amounts to."""

from dataclasses import dataclass, field

from peer.dashboard.curves import CurveHistory
from peer.dashboard.peers import PeerHistory
from peer.dashboard.rounds_file import RoundLine, RoundsFile
from peer.dashboard.runs import RunFacts, Seen, SummaryFacts
from peer.dashboard.scrape import Scrape
from peer.dashboard.state import RunState
from peer.records.phases import PHASES

_SILENT_SECONDS = 15.0


@dataclass
class Shown:
    """The run that is shown, and what was seen of it."""

    name: str
    file: RoundsFile
    peers: PeerHistory = field(default_factory=PeerHistory)
    curves: CurveHistory = field(default_factory=CurveHistory)
    first_began_at: float | None = None
    last_round_at: float | None = None
    last: RoundLine | None = None
    held_out: tuple[float | None, float | None] = (None, None)
    pages_taken: int = 0

    def add_line(self, line: RoundLine) -> None:
        """Take one round of one peer from a file."""
        self.peers.add_line(line)
        values = {name: getattr(line, name) for name in ("loss", "accuracy")}
        self.curves.add(line.peer, line.round, values | self._held_out(line), line.phase_seconds)
        if self.first_began_at is None:
            self.first_began_at = line.time - sum(line.phase_seconds.values())
        self.last_round_at = line.time
        self.last = line

    def add_page(self, rank: int, page: Scrape, now: float) -> None:
        """Take one reading of a peer's own metrics."""
        came = self.peers.add_scrape(rank, page, now)
        for entry in came:
            phases = dict(zip(PHASES, entry.seconds, strict=True))
            self.curves.add(rank, entry.round, {}, phases)
        if came:
            self.last_round_at = now
            self.last = RoundLine(
                run=self.name,
                peer=rank,
                round=came[-1].round,
                time=now,
                phase_seconds={},
                loss=page.total("peerless_loss"),
                accuracy=page.total("peerless_accuracy_ratio"),
                validation_loss=page.total("peerless_validation_loss"),
                validation_accuracy=page.total("peerless_validation_accuracy_ratio"),
                learning_rate=page.total("peerless_learning_rate"),
                gradient_norm=page.total("peerless_gradient_norm"),
            )
            values = {name: getattr(self.last, name) for name in ("loss", "accuracy")}
            self.curves.amend(self.last.round, values | self._held_out(self.last))

    def _held_out(self, line: RoundLine) -> dict[str, float | None]:
        if line.validation_loss is None:
            return {}
        self.held_out = (line.validation_loss, line.validation_accuracy)
        return {
            "validation_loss": line.validation_loss,
            "validation_accuracy": line.validation_accuracy,
        }


def run_state(
    now: float, facts: RunFacts, seen: Seen, summary: SummaryFacts | None, shown: Shown
) -> RunState:
    """Return the run's state: how it is by its members' word, how far by its rounds."""
    last = shown.last
    status, reason = _status(now, seen, summary, shown)
    started_at = shown.first_began_at or seen.created_at
    rounds_done = last.round + 1 if last else 0
    ended_at = now if status == "running" else shown.last_round_at
    round_seconds = shown.peers.round_seconds()
    is_going = status == "running" and round_seconds is not None
    held_out_loss, held_out_accuracy = shown.held_out
    return RunState(
        name=facts.run,
        status=status,
        dataset=facts.dataset,
        model=facts.model.name,
        compute=facts.compute,
        exchange=facts.exchange,
        num_peers=facts.num_peers,
        rounds_planned=facts.rounds,
        rounds_done=rounds_done,
        batch_size=facts.batch_size,
        batches_per_round=facts.batches_per_round,
        started_at=started_at,
        elapsed_seconds=max(0.0, ended_at - started_at) if started_at and ended_at else None,
        remaining_seconds=(facts.rounds - rounds_done) * (round_seconds or 0.0) if is_going else None,
        round_seconds=round_seconds,
        loss=last.loss if last else None,
        accuracy=last.accuracy if last else None,
        validation_loss=held_out_loss,
        validation_accuracy=held_out_accuracy,
        test_accuracy=summary.test_accuracy if summary else None,
        learning_rate=last.learning_rate if last else None,
        gradient_norm=last.gradient_norm if last else None,
        reason=reason,
    )


def _status(now: float, seen: Seen, summary: SummaryFacts | None, shown: Shown) -> tuple[str, str]:
    """Return how a run is, and why: its members' own words come before what its files look like."""
    members = seen.members.values()
    for status in ("failed", "lost"):
        hurt = [member for member in members if member.status == status]
        if hurt:
            who = hurt[0].facts
            silent = "has shown no heartbeat for a while"
            return status, f"peer {who.peer} on {who.host} {who.reason if status == 'failed' else silent}"
    if any(member.status == "running" for member in members):
        return "running", ""
    if summary is not None:
        return "finished", summary.stop_reason
    for status in ("stopped", "finished"):
        if any(member.status == status for member in members):
            return status, ""
    if seen.facts is not None:
        return "created", ""
    is_recent = shown.last_round_at is not None and now - shown.last_round_at < _SILENT_SECONDS
    return ("running", "") if is_recent else ("unknown", "the store cannot be asked how it ended")
