"""An epoch of peerless itself: platform, functions and peers, as `peerless up` and `train` start them."""

import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from epoch_setting import BATCH_SIZE, MNIST, MODEL, NUM_PEERS, SPAWN, Setting

from peer import runs
from peer.allocation import planning
from peer.allocation.memory_limit import GatewayLimits
from peer.config import ALL_BATCHES, GatewayAddress, Liveness, RunConfig, RunStart
from peer.errors import GatewayUnreachable
from peer.gateway import Gateway
from peer.invocations.invokers import FunctionInvoker
from peer.learning.datasets import catalogue
from peer.local.peers import train_locally
from peer.local.platform import MOST_REPLICAS, Platform, PlatformOptions
from peer.messages import ModelSpec
from peer.records import rounds
from peer.records.rounds import RoundRecord
from peer.session import Surroundings
from peer.store.retry import Patience, retry
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import free_port

STACK = MNIST.parents[1] / "stack.yml"
FUNCTION = "gradient"
_READY = Patience(total_seconds=60.0, first_seconds=0.05, longest_seconds=0.25)


@dataclass(frozen=True)
class Addresses:
    """Where the running platform is, and its gateway's process."""

    store: StoreAddress
    gateway: GatewayAddress
    store_kind: str
    num_replicas: int
    gateway_pid: int


@dataclass(frozen=True)
class Epoch:
    """One measured epoch.

    Attributes:
        seconds: from when the first peer began it until the last one had taken its step.
        function_seconds: by phase, summed over the invocations of all peers.
        gb_seconds: all of these times the function's memory limit, of 2^30 bytes: what a platform may bill.
        peer_seconds: by phase, of the peer whose gradient was there last: the others waited for it.
    """

    seconds: float
    function_seconds: dict[str, float]
    gb_seconds: float
    peer_seconds: dict[str, float]


@dataclass(frozen=True)
class Way:
    """How an epoch is computed.

    Attributes:
        batches_per_invocation: 0 is as many as peerless chooses.
        is_cold: measure the first epoch, of fresh replicas.
        is_overlapping: let invocations begin while results of others are fetched, as is the default.
        optimize: what the run plans for, empty for no plan; it may scale the function.
    """

    batches_per_invocation: int = 0
    is_cold: bool = False
    is_overlapping: bool = True
    optimize: str = ""


@contextmanager
def running_platform(setting: Setting, say: Callable[[str], None]) -> Iterator[Addresses]:
    """Give a platform with the samples in its store, which ends with the block and leaves nothing behind."""
    platform = Platform(setting.directory / "state")
    options = PlatformOptions(
        platform.state_dir,
        STACK,
        gateway_port=free_port(),
        store_port=free_port(),
        replicas=setting.num_workers,
    )
    try:
        state = platform.up(options, say)
        store_address, gateway_address = platform.store_address(), platform.gateway_address()
        if not (state.store and state.gateway and store_address and gateway_address):
            raise RuntimeError("the platform started without a store or a gateway")
        store = Store(store_address)
        catalogue.push(store, "mnist", data_dir=setting.directory, held_out=0)
        store.close()
        replicas = int(Gateway(gateway_address).describe(FUNCTION)["replicas"])
        yield Addresses(store_address, gateway_address, state.store.kind, replicas, state.gateway.process.pid)
    finally:
        platform.down(lambda _: None)


def epoch(addresses: Addresses, way: Way) -> Epoch:
    """Return the second epoch of a new run, or the first one on replicas that have done nothing yet.

    Args:
        addresses: of the platform.
        way: how.

    Raises:
        EOFError: the run failed; the error is on stderr.
    """
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_send_epoch, args=(sender, addresses, way))
    process.start()
    sender.close()
    try:
        measured: Epoch = receiver.recv()
    finally:
        process.terminate()  # has no effect but after an error or a signal here
        process.join()
    return measured


def _send_epoch(sender: Connection, addresses: Addresses, way: Way) -> None:
    sender.send(_epoch(addresses, way))
    sender.close()


def _epoch(addresses: Addresses, way: Way) -> Epoch:
    config = RunConfig(
        run=f"epoch-{uuid.uuid4().hex[:8]}",
        dataset="mnist",
        num_peers=NUM_PEERS,
        rounds=1 if way.is_cold else 2,
        batch_size=BATCH_SIZE,
        batches_per_round=ALL_BATCHES,
        batches_per_invocation=way.batches_per_invocation,
        initial_weights="",
        initial_weights_bytes=0,
        model=ModelSpec(MODEL),
        evaluate_every=0,
        checkpoint_every=0,
        invocation_seconds=300.0,
        optimize=way.optimize,
        most_replicas=MOST_REPLICAS if way.optimize else 0,
    )
    store = Store(addresses.store)
    invoker = FunctionInvoker(store, addresses.gateway, config.invocation_seconds)
    with tempfile.TemporaryDirectory() as directory:
        surroundings = Surroundings(
            addresses.store,
            addresses.gateway,
            Liveness(),
            120.0,
            Path(directory),
            is_overlapping=way.is_overlapping,
        )
        limits = GatewayLimits(addresses.gateway, config.largest_memory_bytes)
        config = runs.create(store, config, invoker, lambda line: print(line, file=sys.stderr), limits)
        if way.is_cold:
            _renew_replicas(addresses)
        with planning.in_force(config, addresses.gateway):
            train_locally(surroundings, config, RunStart(), lambda _: None)
        records = rounds.read(surroundings.directory / "rounds.jsonl")
    runs.remove(store, config.run)
    return _measured(records, way.is_cold)


def _measured(records: list[RoundRecord], is_cold: bool) -> Epoch:
    last = max(record.round for record in records)
    ended = [record for record in records if record.round == last]
    if is_cold:
        seconds = max(sum(record.phase_seconds.values()) for record in ended)
    else:
        began = min(record.time for record in records if record.round == last - 1)
        seconds = max(record.time for record in ended) - began
    function_seconds: dict[str, float] = {}
    for record in ended:
        for phase, taken in record.function_seconds.items():
            function_seconds[phase] = function_seconds.get(phase, 0.0) + taken
    slowest = max(ended, key=lambda record: record.phase_seconds["compute"])
    limit_bytes = max(record.functions[FUNCTION].limit_bytes for record in ended)
    gb_seconds = sum(function_seconds.values()) * limit_bytes / (1 << 30)
    return Epoch(seconds, function_seconds, gb_seconds, slowest.phase_seconds)


def _renew_replicas(addresses: Addresses) -> None:
    """Return once every replica is one that has not been asked anything."""
    gateway = Gateway(addresses.gateway)
    for wanted in (0, addresses.num_replicas):
        gateway.scale(FUNCTION, wanted)
        retry(lambda wanted=wanted: _check_replicas(gateway, wanted), _READY)  # type: ignore[misc]


def _check_replicas(gateway: Gateway, wanted: int) -> None:
    available = int(gateway.describe(FUNCTION).get("availableReplicas", 0))
    if available != wanted:
        raise GatewayUnreachable(f"function {FUNCTION} has {available} replicas, not {wanted}")
