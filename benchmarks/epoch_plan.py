"""The plan of `--optimize time` against the best of a grid over batches an invocation and replicas."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product

import epoch_peerless
from epoch_peerless import FUNCTION, Addresses, Epoch, Way
from epoch_setting import NUM_PEERS, Setting

from peer.gateway import Gateway, specification_of
from peer.local.gateway import ready_replicas
from peer.local.platform import MOST_REPLICAS
from peer.store.retry import Patience, retry

PLANNED = "planned"
_READY = Patience(total_seconds=120.0, first_seconds=0.05, longest_seconds=0.25)
_MIN, _MAX = "com.openfaas.scale.min", "com.openfaas.scale.max"

Note = Callable[[str, Epoch], None]


def cells(setting: Setting) -> list[tuple[int, int]]:
    """Return batches (one, a quarter, half, all) and replicas (one, a core each, twice that) of each cell."""
    most = max(len(setting.batches_of(peer)) for peer in range(NUM_PEERS))
    packings = sorted({1, -(-most // 4), -(-most // 2), most})
    replicas = sorted({1, setting.num_workers, min(2 * setting.num_workers, MOST_REPLICAS)})
    return list(product(packings, replicas))


def name_of(packing: int, replicas: int) -> str:
    """Return a cell's name in the table."""
    return f"grid {packing:>3} × {replicas}"


def measure(setting: Setting, addresses: Addresses, note: Note) -> None:
    """Measure every cell of the grid once, and the planner's choice; replicas are as before afterwards."""
    for packing, replicas in cells(setting):
        with _held_at(addresses, replicas, replicas):
            found = epoch_peerless.epoch(addresses, Way(packing))
        note(name_of(packing, replicas), found)
    with _held_at(addresses, 1, MOST_REPLICAS):
        note(PLANNED, epoch_peerless.epoch(addresses, Way(optimize="time")))


def planner_to_best(seconds: Mapping[str, float]) -> float:
    """Return the planner's shortest epoch to the shortest of the grid's."""
    return seconds[PLANNED] / min(taken for way, taken in seconds.items() if way.startswith("grid "))


@contextmanager
def _held_at(addresses: Addresses, least: int, most: int) -> Iterator[None]:
    """Give the block a function between these numbers of replicas, whatever the autoscaler wants."""
    gateway = Gateway(addresses.gateway)
    before = gateway.describe(FUNCTION)
    _deploy(gateway, {_MIN: str(least), _MAX: str(most)}, max(least, min(most, addresses.num_replicas)))
    try:
        yield
    finally:
        _deploy(gateway, before["labels"], addresses.num_replicas)


def _deploy(gateway: Gateway, labels: Mapping[str, str], replicas: int) -> None:
    specification = specification_of(gateway.describe(FUNCTION))
    gateway.update({**specification, "labels": specification["labels"] | dict(labels)})
    gateway.scale(FUNCTION, replicas)
    retry(lambda: ready_replicas(gateway, FUNCTION), _READY)
