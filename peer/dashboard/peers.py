"""A lane a peer: its last rounds by phase, from its lines in `rounds.jsonl` or from its `/metrics`."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from peer.dashboard.rounds_file import RoundLine
from peer.dashboard.scrape import Scrape
from peer.dashboard.state import LaneRound, PeerLane
from peer.records.phases import PHASES, WAIT

_LANE_ROUNDS = 60
_RECENT_ROUNDS = 20
_SLOWER_BY = 1.5
_LEAST_SHARE = 0.1
_MOST_PEERS = 256
_WAIT = PHASES.index(WAIT)


@dataclass
class _Peer:
    origin: str = ""
    rounds: deque[LaneRound] = field(default_factory=lambda: deque(maxlen=_LANE_ROUNDS))
    invocations: int = 0
    cold_starts: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    object_bytes: dict[str, int] = field(default_factory=dict)
    peak_function_bytes: int = 0
    scraped_rounds: float | None = None
    scraped_phases: dict[str, float] = field(default_factory=dict)


class PeerHistory:
    """What the peers of one run have done, as far as it was seen."""

    def __init__(self) -> None:
        self._peers: dict[int, _Peer] = {}

    def add_line(self, line: RoundLine) -> None:
        """Take one round from a file."""
        peer = self._peer(line.peer)
        if peer is None:
            return
        if peer.origin != "rounds.jsonl":
            peer.origin = "rounds.jsonl"
            peer.rounds.clear()
            peer.invocations = peer.cold_starts = 0
            peer.retries, peer.object_bytes = {}, {}
        seconds = [line.phase_seconds.get(phase, 0.0) for phase in PHASES]
        peer.rounds.append(LaneRound(line.round, line.time, [round(value, 6) for value in seconds]))
        peer.invocations += line.invocations
        peer.cold_starts += line.cold_starts
        peer.peak_function_bytes = max(peer.peak_function_bytes, line.peak_function_bytes)
        for sums, counted in ((peer.retries, line.retries), (peer.object_bytes, line.object_bytes)):
            for name, number in counted.items():
                sums[name] = sums.get(name, 0) + number

    def add_scrape(self, rank: int, scrape: Scrape, time: float) -> list[LaneRound]:
        """Return the rounds since the last reading of a peer's `/metrics`; none if a file tells of them.

        They are taken to be alike, and to have ended one after the other.
        """
        peer = self._peer(rank)
        if peer is None or peer.origin == "rounds.jsonl":
            return []
        peer.origin = "/metrics"
        rounds = scrape.total("peerless_rounds_total") or 0.0
        phases = scrape.by_label("peerless_phase_seconds_total", "phase")
        newest = int(scrape.total("peerless_round") or rounds)
        came: list[LaneRound] = []
        new = 0 if peer.scraped_rounds is None else int(rounds - peer.scraped_rounds)
        if new > 0:
            mean = [
                max(0.0, phases.get(name, 0.0) - peer.scraped_phases.get(name, 0.0)) / new for name in PHASES
            ]
            came = [
                LaneRound(newest - 1 - back, time - back * sum(mean), mean)
                for back in range(min(new, _LANE_ROUNDS) - 1, -1, -1)
            ]
            peer.rounds.extend(came)
        if new or peer.scraped_rounds is None:
            peer.scraped_rounds, peer.scraped_phases = rounds, phases
        peer.invocations = int(scrape.total("peerless_invocations_total") or 0)
        peer.cold_starts = int(scrape.total("peerless_cold_starts_total") or 0)
        peer.retries = _counts(scrape.by_label("peerless_retries_total", "reason"))
        peer.object_bytes = _counts(scrape.by_label("peerless_object_bytes_total", "kind"))
        return came

    def retries(self) -> dict[str, int]:
        """Return the retries of all peers by reason."""
        sums: dict[str, int] = {}
        for peer in self._peers.values():
            for reason, count in peer.retries.items():
                sums[reason] = sums.get(reason, 0) + count
        return dict(sorted(sums.items()))

    def round_seconds(self) -> float | None:
        """Return the mean seconds of a recent round, over all peers; None before the first."""
        means = [seconds for peer in self._peers.values() if (seconds := sum(_mean(peer.rounds))) > 0]
        return sum(means) / len(means) if means else None

    def lanes(self, members: Mapping[int, tuple[str, str]]) -> list[PeerLane]:
        """Return the lanes by rank.

        Args:
            members: status and host of those that have a member object.
        """
        ranks = sorted(self._peers.keys() | members.keys())[:_MOST_PEERS]
        means = {rank: _mean(self._peers[rank].rounds) for rank in ranks if rank in self._peers}
        own = {rank: sum(mean) - mean[_WAIT] for rank, mean in means.items() if any(mean)}
        lanes = []
        for rank in ranks:
            status, host = members.get(rank, ("", ""))
            peer = self._peers.get(rank) or _Peer()
            mean = means.get(rank) or [0.0] * len(PHASES)
            lanes.append(
                PeerLane(
                    peer=rank,
                    status=status,
                    host=host,
                    round=peer.rounds[-1].round if peer.rounds else None,
                    origin=peer.origin,
                    round_seconds=sum(mean) or None,
                    own_seconds=own.get(rank),
                    is_slow=is_slow(rank, own, sum(mean)),
                    invocations=peer.invocations,
                    cold_starts=peer.cold_starts,
                    retries=dict(sorted(peer.retries.items())),
                    object_bytes=dict(sorted(peer.object_bytes.items())),
                    peak_function_bytes=peer.peak_function_bytes,
                    phase_seconds=[round(value, 6) for value in mean],
                    rounds=list(peer.rounds),
                )
            )
        return lanes

    def _peer(self, rank: int) -> _Peer | None:
        if rank not in self._peers and len(self._peers) >= _MOST_PEERS:
            return None
        return self._peers.setdefault(rank, _Peer())


def is_slow(rank: int, own_seconds: Mapping[int, float], round_seconds: float) -> bool:
    """Return whether a peer keeps the others waiting.

    It works half as long again as the median of the others, and that is a tenth of the round or more. What
    counts is its own work: the rest of a round it waits for the slowest.
    """
    others = [seconds for other, seconds in own_seconds.items() if other != rank]
    if rank not in own_seconds or not others:
        return False
    usual = median(others)
    excess = own_seconds[rank] - usual
    return own_seconds[rank] > _SLOWER_BY * usual and excess > _LEAST_SHARE * round_seconds


def _mean(rounds: deque[LaneRound]) -> list[float]:
    recent = list(rounds)[-_RECENT_ROUNDS:]
    return [sum(values) / len(recent) for values in zip(*(entry.seconds for entry in recent), strict=True)]


def _counts(values: Mapping[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in values.items() if value}
