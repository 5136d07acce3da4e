"""One peer from beginning to end: claims its rank, trains, and leaves, saying how it ended."""

import logging
import math
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from peer import checkpoint, exchange, weights
from peer.allocation import profiles
from peer.allocation.adaptation import Adapter, described
from peer.allocation.memory_limit import GatewayLimits, Limits, LimitsByPeerZero
from peer.checkpoint import Checkpoints
from peer.compression.codecs import codec_named
from peer.compression.names import parse
from peer.compute import Compute, Means
from peer.config import GatewayAddress, Liveness, RunConfig, RunStart, check_versions, is_adaptive
from peer.decisions import Progress
from peer.errors import FunctionError, PeerlessError, StopRequested
from peer.exchange.bounded_staleness import BoundedStaleness
from peer.exchange.compressor import Compressor
from peer.exchange.meeting import Meeting
from peer.exchange.pace import InStep, Pace
from peer.exchange.traffic import Traffic
from peer.garbage import Garbage
from peer.gateway import Gateway
from peer.invocations.async_calls import Delete
from peer.invocations.fanout import FanOut, Hedging, RetryPolicy
from peer.invocations.invokers import FunctionInvoker, Invoker, LocalInvoker, adapting
from peer.learning.datasets import catalogue
from peer.learning.datasets.manifest import DatasetManifest
from peer.learning.flat import FlatState
from peer.learning.optimizers import FlatOptimizer
from peer.learning.shards import plan_shards
from peer.learning.threads import use_one_thread
from peer.local.signals import StopFlag
from peer.membership import Membership
from peer.messages import Adaptation, OptimizerSpec, PeerManifest, StoredObject
from peer.metrics import MetricsServer, PeerMetrics
from peer.records.meter import Meter
from peer.records.phases import PhaseClock
from peer.records.rounds import RoundLog, RoundRecord, Work
from peer.records.summary import PeerResult, export_weights, peer_result
from peer.rendezvous import Rendezvous
from peer.residuals import Residuals
from peer.store import keys
from peer.store.retry import Patience
from peer.store.s3 import Store, StoreAddress
from peer.training import Outcome, Parts, Peer, State
from peer.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """Where a peer finds the platform, how patient it is, where it writes, and where its metrics are read.

    `metrics_address` is of this machine; with an empty one, they are counted and served nowhere. `is_hedging`
    is whether invocations that take long get a second attempt; by `invoke`, functions are waited for, or
    called through the gateway's queue. `is_overlapping` is whether an invocation begins while the result of
    another is fetched, and whether those who compute may fetch the next round's parts meanwhile.
    """

    store: StoreAddress
    gateway: GatewayAddress
    liveness: Liveness
    outage_seconds: float
    directory: Path
    metrics_address: str = ""
    is_hedging: bool = True
    invoke: Literal["sync", "async"] = "sync"
    is_overlapping: bool = True


def run_peer(
    surroundings: Surroundings,
    config: RunConfig,
    start: RunStart,
    rank: int,
    on_record: Callable[[RoundRecord], None],
) -> PeerResult:
    """Return the result of one peer's part in a run; the process handles signals from now on.

    Raises:
        PeerlessError: the run cannot go on, or was stopped; the peer's member object says so, too.
    """
    use_one_thread()
    check_versions(config)
    stop = StopFlag()
    stop.install()
    accounts = _Accounts(Work(), PeerMetrics(config, start, rank))
    store = Store(
        surroundings.store,
        patience=Patience(total_seconds=surroundings.outage_seconds),
        on_transfer=accounts.add_transfer,
        on_retry=accounts.add_retry,
        on_request=accounts.metrics.add_request,
    )
    with _served(accounts.metrics, surroundings) as metrics_url:
        membership = Membership(store, config.run, rank, surroundings.liveness, metrics_url)
        session = _Session(surroundings, config, start, rank, store, membership, accounts)
        return _run_member(session, stop, on_record)


@contextmanager
def _served(metrics: PeerMetrics, surroundings: Surroundings) -> Iterator[str]:
    """Give the block the URL at which the metrics are served while it runs, empty for nowhere."""
    if not surroundings.metrics_address:
        yield ""
        return
    server = MetricsServer(metrics, surroundings.metrics_address, surroundings.store.endpoint)
    log.info("metrics are served at %s", server.url)
    try:
        yield server.url
    finally:
        server.close()


def _run_member(session: "_Session", stop: StopFlag, on_record: Callable[[RoundRecord], None]) -> PeerResult:
    """Return the session's result; the rank is claimed before, and left afterwards with the reason."""
    membership = session.membership
    membership.claim(session.start)
    ending, reason = "failed", "an error that nobody expected; its own log has it"
    try:
        result = session.run(stop, on_record)
        ending, reason = "finished", ""
    except StopRequested as request:
        ending, reason = "stopped", str(request)
        raise
    except PeerlessError as error:
        reason = str(error)
        raise
    finally:
        membership.leave(ending, reason)
    return result


@dataclass(frozen=True)
class _Accounts:
    """Where a peer's work is counted: for the record of each round, and for its metrics."""

    work: Work
    metrics: PeerMetrics

    def add_transfer(self, operation: str, num_bytes: int, _seconds: float) -> None:
        self.work.add_bytes(operation, num_bytes)
        self.metrics.add_transfer(operation, num_bytes)

    def add_retry(self, error: PeerlessError) -> None:
        self.work.add_retry(error)
        self.metrics.add_retry(error)

    def add_adaptation(self, adaptation: Adaptation) -> None:
        log.warning("round %d: %s: %s", adaptation.round, described(adaptation), adaptation.reason)
        self.work.add_adaptation(adaptation)
        self.metrics.add_adaptation(adaptation)


@dataclass(frozen=True)
class _Session:
    surroundings: Surroundings
    config: RunConfig
    start: RunStart
    rank: int
    store: Store
    membership: Membership
    accounts: _Accounts

    def run(self, stop: StopFlag, on_record: Callable[[RoundRecord], None]) -> PeerResult:
        config, store, start = self.config, self.store, self.start
        work, metrics = self.accounts.work, self.accounts.metrics
        garbage = Garbage(store, is_kept=config.keep_objects)
        adapter = self._adapter()
        fan_out = self._fan_out(adapter)
        meter = Meter()
        clock = PhaseClock(meter=meter)

        def told_of_record(record: RoundRecord) -> None:
            metrics.add_round(record)
            on_record(record)

        try:
            dataset = catalogue.find(store, config.dataset)
            rendezvous = Rendezvous(
                store, self.membership, config.run, start.generation, config.num_peers, clock
            )
            published = Weights(
                store, garbage, config.run, self.rank, config.num_peers, clock, config.staleness
            )
            compressor = _compressor(config)
            residuals = Residuals(store, garbage, rendezvous, compressor, self._first_manifest())
            checkpoints = self._checkpoints(garbage, published, residuals)
            state = starting_state(store, config, start, checkpoints)
            invoker = invoker_for(config, self.surroundings, store, garbage.delete)
            invoker = adapting(invoker, config, adapter)
            means = Means(
                invoker, fan_out, garbage, clock, work, is_prefetching=self.surroundings.is_overlapping
            )
            traffic = Traffic(store, compressor)
            parts = Parts(
                weights=published,
                compute=self._compute(dataset, means),
                adapter=adapter,
                pace=self._pace(traffic, rendezvous, invoker, fan_out),
                rendezvous=rendezvous,
                checkpoints=checkpoints,
                garbage=garbage,
                log=RoundLog(self.surroundings.directory / "rounds.jsonl", told_of_record),
                work=work,
                clock=clock,
                stop=stop,
            )
            outcome = Peer(config, start, self._first_manifest(), parts).train(state)
            if self.rank == 0:
                self._keep(outcome, dataset, adapter)
        finally:
            fan_out.close()
            garbage.close()
            meter.close()
        return peer_result(self.rank, outcome, work.take()["adaptations"])

    def _keep(self, outcome: Outcome, dataset: DatasetManifest, adapter: Adapter) -> None:
        """Leave what the run came to: its weights, and the sizes at which it fitted."""
        path = self.surroundings.directory / "model.safetensors"
        export_weights(path, dataset.num_classes, self.config, outcome.model)
        if is_adaptive(self.config):
            micro_batch = outcome.progress.micro_batch
            profiles.remember(self.store, self.config, dataset, micro_batch, adapter.limit_bytes)

    def _checkpoints(self, garbage: Garbage, published: Weights, residuals: Residuals) -> Checkpoints:
        return Checkpoints(
            self.store,
            garbage,
            published,
            residuals,
            self.config.run,
            self.rank,
            self.config.num_peers,
            on_written=self.accounts.metrics.add_checkpoint,
        )

    def _pace(self, traffic: Traffic, rendezvous: Rendezvous, invoker: Invoker, fan_out: FanOut) -> Pace:
        config = self.config
        if not config.staleness:
            return InStep(exchange.create(config.exchange, traffic, rendezvous, invoker, fan_out))
        meeting, first_round = Meeting(self.store, rendezvous), self._first_manifest().round
        return BoundedStaleness(traffic, rendezvous, meeting, config.staleness, self.rank, first_round)

    def _compute(self, dataset: DatasetManifest, means: Means) -> Compute:
        config = self.config
        shards = plan_shards(dataset, config.num_peers, config.partition, config.seed)
        return Compute(config, self.start.generation, self.rank, dataset, shards[self.rank], means)

    def _adapter(self) -> Adapter:
        """Return what adapts this peer's invocations; peer 0 raises limits for all."""
        config, membership = self.config, self.membership
        limits: Limits = LimitsByPeerZero(membership, config.largest_memory_bytes)
        if self.rank == 0:
            limits = limits_for(config, self.surroundings)
        on_adapted = self.accounts.add_adaptation
        adapter = Adapter(config, self.rank, limits, self.surroundings.outage_seconds, on_adapted)
        if self.rank == 0:
            membership.on_short_of_memory = adapter.asked
            for each in config.adaptations:
                self.accounts.metrics.add_adaptation(each)
        return adapter

    def _fan_out(self, adapter: Adapter) -> FanOut:
        """Return a fan-out as wide as this peer's part of the replicas, 1 where the gateway does not tell."""
        config, surroundings = self.config, self.surroundings
        replicas = 1
        if config.compute == "functions" and surroundings.gateway.password:
            try:
                replicas = int(Gateway(surroundings.gateway).describe("gradient").get("replicas", 1))
            except FunctionError as error:
                log.warning(
                    "the number of gradient replicas is not known, one invocation at a time: %s", error
                )
        policy = RetryPolicy(outage_seconds=surroundings.outage_seconds)
        if is_adaptive(config):
            policy = replace(policy, max_out_of_memory=math.inf)
        hedging = None
        if config.compute == "functions" and surroundings.is_hedging:
            work = self.accounts.work
            hedging = Hedging(on_hedge=work.add_hedge, on_won=work.add_hedge_won)
        width = max(1, replicas // config.num_peers)
        return FanOut(
            width,
            policy,
            self.accounts.add_retry,
            adapter.changed_in_flight,
            hedging,
            is_overlapping=surroundings.is_overlapping and config.compute == "functions",
        )

    def _first_manifest(self) -> PeerManifest:
        return PeerManifest(
            run=self.config.run,
            generation=self.start.generation,
            round=self.start.resumed_round or 0,
            peer=self.rank,
            incarnation=self.membership.incarnation,
            weights_sha256="",
            cpu=f"{platform.node()} ({torch.backends.cpu.get_cpu_capability()})",
        )


def starting_state(store: Store, config: RunConfig, start: RunStart, checkpoints: Checkpoints) -> State:
    """Return the state before the first round of this generation: initial weights, or a checkpoint's."""
    if start.resumed_round is None:
        model = weights.fetch(store, initial_weights(config))
        optimizer = _optimizer(config, model)
        progress = Progress(config.optimizer.learning_rate, micro_batch=config.micro_batch)
        return State(0, model, optimizer, progress)
    manifest = checkpoint.read(store, config.run, start.resumed_round)
    checkpoints.adopt(manifest)
    model = weights.fetch(store, manifest.weights)
    optimizer = _optimizer(config, model)
    checkpoint.load_optimizer(store, manifest, optimizer)
    return State(manifest.round, model, optimizer, manifest.progress)


def _compressor(config: RunConfig) -> Compressor:
    """Return what compresses this peer's gradients in the exchange."""
    name = parse(config.compression)
    return Compressor(codec_named(name), config.seed, decay=name.decay)


def _optimizer(config: RunConfig, model: FlatState) -> FlatOptimizer:
    """Return what applies a round's mean: of gradients, or of what local steps came to."""
    if not config.local_steps:
        return FlatOptimizer(model.parameters, config.optimizer)
    rate, momentum = config.outer.learning_rate, config.outer.momentum
    outer = OptimizerSpec(name="sgd", learning_rate=rate, momentum=momentum, nesterov=momentum > 0)
    return FlatOptimizer(model.parameters, outer)


def initial_weights(config: RunConfig) -> StoredObject:
    """Return the object that rank 0 initialised; nobody else initialises."""
    return StoredObject(
        key=keys.weights(config.run, config.initial_weights.removeprefix("sha256:")),
        length=config.initial_weights_bytes,
        checksum=config.initial_weights,
    )


def invoker_for(
    config: RunConfig, surroundings: Surroundings, store: Store, delete: Delete | None = None
) -> Invoker:
    """Return what computes this run: the functions of the gateway, or this process.

    Args:
        config: the run's.
        surroundings: where the functions are, and whether they are called through the gateway's queue.
        store: where results and replies go.
        delete: removes replies that were read; unless told, at once.
    """
    if config.compute == "local":
        return LocalInvoker(store)

    def delete_now(object_keys: Iterable[str], _late_seconds: float) -> None:
        store.delete(object_keys)

    delete_replies = (delete or delete_now) if surroundings.invoke == "async" else None
    return FunctionInvoker(store, surroundings.gateway, config.invocation_seconds, delete_replies)


def limits_for(config: RunConfig, surroundings: Surroundings) -> GatewayLimits:
    """Return the functions' memory limits, as far as this run may ask for them and raise them."""
    return GatewayLimits(surroundings.gateway, config.largest_memory_bytes)
