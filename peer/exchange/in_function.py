"""Exchange by functions: part k of all gradients is reduced next to the store, where peer k asks for it."""

from msgspec.structs import replace

from peer.aggregation import Gradient
from peer.errors import ObjectCorrupt
from peer.exchange.interface import Exchanged
from peer.exchange.parts import assemble, cut
from peer.exchange.reduced import gather, part_key, part_of, reduced_key
from peer.exchange.traffic import Traffic
from peer.invocations.fanout import FanOut
from peer.invocations.invokers import Invoker
from peer.messages import (
    PROTOCOL_VERSION,
    AggregateRequest,
    PeerManifest,
    RemoteObject,
    StoredObject,
    WeightedObject,
)
from peer.rendezvous import Rendezvous


class InFunction:
    """Up one gradient, down one; the function `aggregate` reads P parts and writes one, for each peer."""

    def __init__(self, traffic: Traffic, rendezvous: Rendezvous, invoker: Invoker, fan_out: FanOut) -> None:
        self._traffic = traffic
        self._rendezvous = rendezvous
        self._invoker = invoker
        self._fan_out = fan_out

    def run(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Return the mean over all peers; see `Exchange.run`. Raises FunctionError as the fan-out does."""
        num_peers = self._rendezvous.num_peers
        pieces = cut(own, num_peers)
        object_keys = [part_key(manifest, peer) for peer in range(num_peers)]
        sent = self._traffic.put_parts(manifest, pieces, object_keys)
        manifest = replace(manifest, parts=sent.parts, num_samples=own.num_samples)
        self._rendezvous.publish(manifest)

        manifests = list(self._rendezvous.collect(manifest))
        left = self._rendezvous.objects_of(manifest)
        stored = self._aggregate(manifests, manifest, left)
        left.append(self._rendezvous.publish_reduced([stored], manifest))
        num_samples = sum(theirs.num_samples for theirs in manifests)
        fetches = gather(self._traffic, self._rendezvous, pieces, manifest, num_samples)
        mean = assemble(own, num_peers, self._traffic.transfers.ahead(fetches))
        return Exchanged(mean, manifests, left, sent.uncompressed_bytes, sent.seconds)

    def _aggregate(self, manifests: list[PeerManifest], own: PeerManifest, left: list[str]) -> StoredObject:
        """Have this peer's part of all gradients reduced; each attempt has its own key, added to `left`."""

        def attempt(number: int) -> StoredObject:
            key = reduced_key(own, str(number))
            left.append(key)
            request = AggregateRequest(
                protocol=PROTOCOL_VERSION,
                run=own.run,
                round=own.round,
                peer=own.peer,
                invocation=0,
                attempt=str(number),
                parts=[self._weighted(theirs, own) for theirs in manifests],
                codec=self._traffic.codec.name,
                result_url=self._invoker.writable(key),
            )
            reply = self._invoker.aggregate(request)
            return StoredObject(key=key, length=reply.length, checksum=reply.checksum)

        (stored,) = self._fan_out.run([attempt], "aggregate")
        return stored

    def _weighted(self, theirs: PeerManifest, own: PeerManifest) -> WeightedObject:
        part, length = part_of(theirs, own.peer), part_of(own, own.peer).length
        if part.length != length:
            raise ObjectCorrupt(f"{part.key} has {part.length} bytes, not {length}: another model?")
        url = self._invoker.readable(part.key)
        remote = RemoteObject(url=url, length=part.length, checksum=part.checksum)
        return WeightedObject(object=remote, num_samples=theirs.num_samples)
