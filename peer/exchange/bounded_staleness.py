"""Bounded staleness: a peer goes on without the others' newest gradients, and takes them later, damped.

Stale Synchronous Parallel (Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel
Parameter Server", NIPS 2013) with peers in place of workers and server: each has weights of its own, to which
it applies every gradient once. docs/decisions/staleness.md says what that guarantees.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from peer.aggregation import DampedMean, Gradient, Summand
from peer.exchange.all_gather import exchange_keys, fetched, kept, whole_pieces
from peer.exchange.meeting import Meeting
from peer.exchange.pace import Step
from peer.exchange.parts import assemble
from peer.exchange.traffic import Traffic
from peer.learning.optimizers import FlatOptimizer
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous


class BoundedStaleness:
    """Peers at most `staleness` rounds apart; up one gradient a round, down P-1, as with all-gather.

    Args:
        traffic: puts and fetches gradients.
        rendezvous: this peer's.
        meeting: makes all states one.
        staleness: S >= 1. A round's step has every gradient that is S rounds old or older, of what is newer
            whatever is there.
        rank: this peer.
        first_round: of this generation.
    """

    def __init__(
        self,
        traffic: Traffic,
        rendezvous: Rendezvous,
        meeting: Meeting,
        staleness: int,
        rank: int,
        first_round: int,
    ) -> None:
        self._traffic = traffic
        self._rendezvous = rendezvous
        self._meeting = meeting
        self._staleness = staleness
        self._inbox = Inbox(rendezvous, rank, first_round)
        self._num_samples: dict[int, int] = {}

    def step(self, own: Gradient, manifest: PeerManifest, *, is_meeting: bool) -> Step:
        """Return the damped mean of this peer's gradient and of all that has come; see `Pace.step`."""
        pieces = whole_pieces(own)
        sent = self._traffic.put_parts(manifest, pieces, exchange_keys(manifest, len(pieces)))
        manifest = replace(manifest, parts=sent.parts, num_samples=own.num_samples)
        self._rendezvous.publish(manifest)

        now = manifest.round
        needed = now if is_meeting else now - self._staleness
        others = self._inbox.take(needed, newest=now if is_meeting else None)
        self._inbox.keep(manifest)
        staleness = [0] * (self._staleness + 1)
        for theirs in others:
            staleness[_staleness(theirs, now)] += 1
        slowest = min(self._inbox.newest_rounds(), default=now)
        return Step(
            mean=self._mean(own, pieces, manifest, others),
            own=manifest,
            manifests=_in_order([manifest, *others]),
            decided=self._inbox.complete(needed),
            # whoever has published a round has had, for the step before it, what was S rounds old
            read_before=slowest - self._staleness,
            objects=self._rendezvous.objects_of(manifest),
            uncompressed_bytes=sent.uncompressed_bytes,
            send_seconds=sent.seconds,
            staleness=staleness,
            lead=max(0, now - slowest),
        )

    def meet(self, optimizer: FlatOptimizer, step: Step) -> list[str]:
        """Average the states of all peers; see `Pace.meet`."""
        return self._meeting.average(optimizer, step.mean, step.own)

    def _mean(
        self, own: Gradient, pieces: list[Gradient], manifest: PeerManifest, others: list[PeerManifest]
    ) -> Gradient:
        """Fold the gradients by round and peer, so that the same ones have the same mean everywhere."""
        in_order = _in_order([manifest, *others])

        def fetches() -> Iterator[Callable[[], Summand]]:
            for each in in_order:
                is_own = each.peer == manifest.peer
                yield from kept(pieces) if is_own else fetched(self._traffic, each, pieces)

        means = [DampedMean() for _ in pieces]
        for number, part in enumerate(self._traffic.transfers.ahead(fetches())):
            source = in_order[number // len(pieces)]
            means[number % len(pieces)].add(part, _staleness(source, manifest.round))
        round_samples = self._samples_of_a_round(in_order, own.num_samples)
        return assemble(own, len(pieces), (each.result(round_samples) for each in means))

    def _samples_of_a_round(self, newest_last: list[PeerManifest], own_samples: int) -> int:
        """Return the samples of a round by what each peer sent last; as many as here, if nothing yet."""
        self._num_samples |= {each.peer: each.num_samples for each in newest_last}
        peers = range(self._rendezvous.num_peers)
        return sum(self._num_samples.get(peer, own_samples) for peer in peers)


class Inbox:
    """What one peer has read of the others: of each a manifest a round, in order, each once.

    Args:
        rendezvous: this peer's.
        rank: this peer.
        first_round: of this generation; nobody publishes an earlier one.
    """

    def __init__(self, rendezvous: Rendezvous, rank: int, first_round: int) -> None:
        self._rendezvous = rendezvous
        others = (peer for peer in range(rendezvous.num_peers) if peer != rank)
        self._unread = dict.fromkeys(others, first_round)
        self._incomplete: dict[int, dict[int, PeerManifest]] = defaultdict(dict)

    def take(self, needed: int, newest: int | None) -> list[PeerManifest]:
        """Return the others' manifests that have not been returned before.

        Args:
            needed: the last round of which all must be there; they are waited for.
            newest: the last round that may be among them, None for any that is there.

        Raises:
            PeerLost: a needed one does not come.
        """
        taken = []
        for peer in self._unread:
            while self._unread[peer] <= needed:
                taken.append(self._read(self._rendezvous.manifest(self._unread[peer], peer)))
        for peer in self._unread:
            while newest is None or self._unread[peer] <= newest:
                manifest = self._rendezvous.manifest_if_there(self._unread[peer], peer)
                if manifest is None:
                    break
                taken.append(self._read(manifest))
        return taken

    def keep(self, own: PeerManifest) -> None:
        """Count this peer's own manifest of a round, too."""
        self._incomplete[own.round][own.peer] = own

    def complete(self, last_round: int) -> list[list[PeerManifest]]:
        """Return, once each, the rounds up to this one, oldest first: the manifests of all in peer order."""
        rounds = sorted(number for number in self._incomplete if number <= last_round)
        found = [self._incomplete.pop(number) for number in rounds]
        return [[manifests[peer] for peer in sorted(manifests)] for manifests in found]

    def newest_rounds(self) -> list[int]:
        """Return the newest round that has been read of each other peer."""
        return [unread - 1 for unread in self._unread.values()]

    def _read(self, manifest: PeerManifest) -> PeerManifest:
        self._unread[manifest.peer] += 1
        self._incomplete[manifest.round][manifest.peer] = manifest
        return manifest


def _staleness(manifest: PeerManifest, now: int) -> int:
    """Return how many rounds late a gradient is; of a peer that is ahead, none."""
    return max(0, now - manifest.round)


def _in_order(manifests: list[PeerManifest]) -> list[PeerManifest]:
    return sorted(manifests, key=lambda each: (each.round, each.peer))
