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
_FINALISTS = 3
_AGAIN = "again "
_READY = Patience(total_seconds=120.0, first_seconds=0.05, longest_seconds=0.25)
_MIN, _MAX = "com.openfaas.scale.min", "com.openfaas.scale.max"

Note = Callable[[str, Epoch], None]


def cells(setting: Setting) -> list[tuple[int, int]]:
    """Return batches (one, a quarter, half, all) and replicas (one, a core each, twice that) of each cell."""
    most = max(len(setting.batches_of(peer)) for peer in range(NUM_PEERS))
    packings = sorted({1, -(-most // 4), -(-most // 2), most})
    replicas = sorted({1, setting.num_workers, min(2 * setting.num_workers, MOST_REPLICAS)})
    return list(product(packings, replicas))


def named(cell: tuple[int, int]) -> str:
    """Return what a cell is called in the table: batches an invocation × replicas."""
    return f"{cell[0]:>3} × {cell[1]}"


def measure(setting: Setting, addresses: Addresses, repeats: int, note: Note) -> None:
    """Measure every cell of the grid once; then, so many times, the best of them and the planner's choice.

    These take turns, so that what disturbs the machine disturbs all of them, and the best cell is not the
    luckiest of many. Replicas are as before afterwards.
    """
    seconds = {cell: _measured(cell, addresses, f"grid {named(cell)}", note) for cell in cells(setting)}
    finalists = sorted(seconds, key=lambda cell: seconds[cell])[:_FINALISTS]
    for _ in range(repeats):
        for cell in finalists:
            _measured(cell, addresses, f"{_AGAIN}{named(cell)}", note)
        with _held_at(addresses, 1, MOST_REPLICAS):
            note(PLANNED, epoch_peerless.epoch(addresses, Way(optimize="time")))


def planner_to_best(seconds: Mapping[str, float]) -> float:
    """Return the planner's shortest epoch to the shortest of the cells that took turns with it."""
    return seconds[PLANNED] / min(taken for way, taken in seconds.items() if way.startswith(_AGAIN))


def _measured(cell: tuple[int, int], addresses: Addresses, way: str, note: Note) -> float:
    packing, replicas = cell
    with _held_at(addresses, replicas, replicas):
        found = epoch_peerless.epoch(addresses, Way(packing))
    note(way, found)
    return found.seconds


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
