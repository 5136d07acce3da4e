"""What the tests of whole runs share: a platform that may be hurt, and a run of small peers on it."""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from msgspec.structs import replace as replace_fields

from peer import runs
from peer.config import EXCHANGES, GatewayAddress, Liveness, RunConfig, RunStart
from peer.learning.datasets import catalogue
from peer.local.peers import train_locally
from peer.local.platform import Platform, PlatformOptions
from peer.local.processes import has_ended
from peer.messages import ModelSpec, OptimizerSpec
from peer.records.rounds import RoundRecord
from peer.records.summary import PeerResult
from peer.session import Surroundings, invoker_for, limits_for
from peer.store.retry import Patience, poll
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import free_port

CHECKOUT = Path(__file__).resolve().parents[1]
DATASET = "synthetic-640-1x20x20"
SMALL = RunConfig(
    run="unnamed",
    dataset=DATASET,
    num_peers=4,
    rounds=6,
    batch_size=16,
    batches_per_round=2,
    batches_per_invocation=1,
    initial_weights="",
    initial_weights_bytes=0,
    model=ModelSpec("cnn", {"input_size": 20}),
    optimizer=OptimizerSpec(name="adamw", learning_rate=2e-3),
    evaluate_every=2,
    checkpoint_every=2,
    invocation_seconds=60.0,
)
WITHOUT_FUNCTIONS = tuple(name for name in EXCHANGES if name != "in_function")
"""Strategies that peers can follow alone."""

IMPATIENT = Liveness(heartbeat_seconds=0.25, peer_seconds=3.0, join_seconds=20.0)

OnRecord = Callable[[RoundRecord], None]
_ANEW = RunStart()


def ignore(_record: RoundRecord) -> None:
    """Do nothing with a record."""


@dataclass
class LocalPlatform:
    """A platform in a directory of its own, on ports that were free."""

    directory: Path
    store_server: str = "auto"

    def __post_init__(self) -> None:
        self.platform = Platform(self.directory / "state")
        self.options = PlatformOptions(
            self.directory / "state",
            CHECKOUT / "stack.yml",
            gateway_port=free_port(),
            store_port=free_port(),
            store_server=self.store_server,
            replicas=2,
        )

    def up(self) -> None:
        """Start what does not run."""
        self.platform.up(self.options, print)

    def down(self) -> None:
        """End everything."""
        self.platform.down(print)

    @property
    def gateway(self) -> GatewayAddress:
        address = self.platform.gateway_address()
        assert address is not None
        return address

    @property
    def store_address(self) -> StoreAddress:
        address = self.platform.store_address()
        assert address is not None
        return address

    def kill(self, part: str) -> None:
        """SIGKILL the store or the gateway, as nothing would that had a choice."""
        process = getattr(self.platform.state(), part).process
        os.kill(process.pid, signal.SIGKILL)
        poll(lambda: has_ended(process) or None, Patience(total_seconds=10.0))

    def surroundings(self, directory: Path) -> Surroundings:
        directory.mkdir(parents=True, exist_ok=True)
        return Surroundings(self.store_address, self.gateway, IMPATIENT, 60.0, directory)


@dataclass
class Runner:
    """Runs small trainings against one store, by functions if there is a gateway, else locally."""

    surroundings: Surroundings

    def __post_init__(self) -> None:
        self.store = Store(self.surroundings.store)
        self.store.ensure_bucket()

    def create(self, name: str, say: Callable[[str], None] = print, **changes: Any) -> RunConfig:
        """Freeze a new run; the dataset is pushed if need be."""
        config = replace_fields(SMALL, run=name, **changes)
        catalogue.push(self.store, config.dataset)
        invoker, limits = (
            invoker_for(config, self.surroundings, self.store),
            limits_for(config, self.surroundings),
        )
        return runs.create(self.store, config, invoker, say, limits)

    def train(self, name: str, on_record: OnRecord = ignore, **changes: Any) -> list[PeerResult]:
        """Run all peers of a new run."""
        return self.go(self.create(name, **changes), RunStart(), on_record)

    def resume(self, name: str, on_record: OnRecord = ignore) -> list[PeerResult]:
        """Go on with a run."""
        config, start = runs.resume(self.store, name, IMPATIENT)
        return self.go(config, start, on_record)

    def go(
        self, config: RunConfig, start: RunStart = _ANEW, on_record: OnRecord = ignore
    ) -> list[PeerResult]:
        """Run all peers of one generation."""
        directory = self.surroundings.directory / config.run
        directory.mkdir(parents=True, exist_ok=True)
        surroundings = replace(self.surroundings, directory=directory)
        return train_locally(surroundings, config, start, on_record)


def children_of(pid: int) -> list[int]:
    """Return the ids of a process' children, grandchildren and so on."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children_of(int(child))]
    return found


def replicas_of(platform: LocalPlatform, function: str) -> list[psutil.Process]:
    """Return the processes that run a function, which each have its folder as working directory."""
    gateway = platform.platform.state().gateway
    assert gateway is not None
    found = []
    for process in psutil.Process(gateway.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).name == function and not process.children():
                found.append(process)
    return found


def child_of_rank(rank: int) -> int:
    """Return the process of a peer, which is the one that has its log open."""
    (found,) = [
        child.pid
        for child in psutil.Process().children()
        if any(file.path.endswith(f"/peer-{rank}.log") for file in child.open_files())
    ]
    return found
