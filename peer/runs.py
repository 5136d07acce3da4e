"""Runs in the store: begun anew, joined, resumed, listed, removed."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace
from torch import nn

from peer import checkpoint, weights
from peer.allocation import planning, profiles
from peer.allocation.adaptation import described
from peer.allocation.first_batch import Samples, try_one_batch
from peer.allocation.measuring import Observing
from peer.allocation.memory_limit import GatewayLimits
from peer.compression.codecs import codec_named
from peer.compression.interface import num_bytes
from peer.config import (
    AUTOMATIC_EXCHANGE,
    GatewayAddress,
    Liveness,
    RunConfig,
    RunStart,
    current_versions,
    is_adaptive,
    validate,
)
from peer.errors import CheckpointError, ConfigurationError, ObjectCorrupt, PeerLost
from peer.exchange import choice
from peer.invocations.invokers import Invoker
from peer.learning.datasets import catalogue
from peer.learning.datasets.manifest import DatasetManifest
from peer.learning.flat import Layout
from peer.learning.gradients import indivisible_layer
from peer.learning.models import initialise
from peer.learning.shards import Shard, plan_shards
from peer.learning.threads import use_one_thread
from peer.membership import check_free
from peer.messages import MemberRecord, StoredObject
from peer.records.summary import Summary
from peer.store import keys
from peer.store.retry import Patience, poll
from peer.store.s3 import Store

log = logging.getLogger(__name__)

PACK_AUTOMATICALLY = 0

_PATIENT = Liveness()
_HELD = GatewayLimits(GatewayAddress(""), largest_bytes=0)
_REPLICAS_TO_FILL = 5
"""What OpenFaaS Community Edition allows a function; packing must not depend on how many there are today."""


def create(
    store: Store,
    config: RunConfig,
    invoker: Invoker,
    say: Callable[[str], None] = log.info,
    limits: GatewayLimits = _HELD,
) -> RunConfig:
    """Return the frozen configuration of a new run, now in the store with its initial weights.

    Before anything is frozen one batch of the largest shard is computed as every batch will be, so that what
    cannot work (function not deployed, model too large for its memory limit, store not reachable from there)
    is said once, at the start. If it does not fit, memory limit or micro-batch are adapted, unless the
    configuration forbids it. With a target (`optimize`), that batch also makes or recalls the profile from
    which packing and micro-batch are planned.

    Args:
        store: its bucket exists.
        config: what the user asked for; `dataset` may be a name, packing and exchange may be automatic, and
            versions, initial weights and what the model says of itself are filled in.
        invoker: computes that batch.
        say: told what was chosen, and why.
        limits: the functions' memory limits.

    Raises:
        ConfigurationError: the run exists, or the configuration is not possible. Nothing was written.
        DatasetError, FunctionError, StoreError: the batch was not computed. No configuration was written.
    """
    packing = config.batches_per_invocation or config.local_steps
    config = replace(config, versions=current_versions(), batches_per_invocation=packing or 1)
    validate(config)
    if store.head(keys.run_config(config.run)) is not None:
        raise ConfigurationError(
            f"run {config.run} exists: go on with `peerless resume {config.run}`, or choose another name"
        )
    dataset = catalogue.find(store, config.dataset)
    shards = plan_shards(dataset, config.num_peers, config.partition, config.seed)
    _check_batches(config, shards)
    config, stored = _initialised(store, replace(config, dataset=dataset.id), dataset)
    if config.exchange == AUTOMATIC_EXCHANGE:
        config = _with_exchange(store, config, stored.length, say)
    samples = Samples(dataset, max(shards, key=lambda each: each.num_samples), stored)
    observing = Observing(invoker)
    config, seconds = _fitted(store, config, samples, observing, limits, say)
    steps_seconds = config.local_steps * seconds
    if steps_seconds > config.invocation_seconds:
        say(
            f"local steps: {config.local_steps} take {steps_seconds:.0f} s, to judge by the first batch; "
            f"an invocation may take {config.invocation_seconds:g} s: see --invocation-timeout"
        )
    if config.optimize:
        asked = replace(config, batches_per_invocation=packing)
        config = planning.with_plan(store, asked, samples, shards, observing, limits.address, say)
    elif packing == PACK_AUTOMATICALLY:
        config = replace(config, batches_per_invocation=automatic_packing(config, shards, seconds))
    store.put_message(keys.run_config(config.run), config)
    return config


def _initialised(store: Store, config: RunConfig, dataset: DatasetManifest) -> tuple[RunConfig, StoredObject]:
    """Return the configuration with what only the model tells, and the weights, which are stored now."""
    model = initial_model(config, dataset)
    stored = publish_initial_weights(store, config, model)
    config = replace(
        config,
        initial_weights=stored.checksum,
        initial_weights_bytes=stored.length,
        indivisible_layer=indivisible_layer(model),
    )
    return config, stored


def _fitted(
    store: Store,
    config: RunConfig,
    samples: Samples,
    invoker: Observing,
    limits: GatewayLimits,
    say: Callable[[str], None],
) -> tuple[RunConfig, float]:
    """Return the configuration at sizes that fit, and the seconds that one batch takes."""
    if is_adaptive(config):
        config = profiles.recalled(store, config, samples.dataset, limits.of("gradient"))
        for each in config.adaptations:
            say(f"{described(each)}: {each.reason}")
    if config.optimize and not profiles.measured(store, config, samples.dataset, limits.address.url):
        planning.try_small_passes(store, config, samples, invoker)
    first = try_one_batch(store, config, samples, invoker, limits, say)
    adaptations = [*config.adaptations, *first.adaptations]
    config = replace(config, micro_batch=first.micro_batch, adaptations=adaptations)
    if is_adaptive(config):
        profiles.remember(store, config, samples.dataset, first.micro_batch, first.limit_bytes)
    return config, first.seconds


def _with_exchange(
    store: Store, config: RunConfig, gradient_bytes: int, say: Callable[[str], None]
) -> RunConfig:
    """Return the configuration with the strategy that suits this store, or the only one that is possible."""
    if config.staleness:
        say("exchange all_gather: the one in which peers need not be in the same round (--staleness)")
        return replace(config, exchange="all_gather")
    # buffers, which are not compressed, are so few that all may count as parameters here
    compressed_bytes = num_bytes(codec_named(config.compression), gradient_bytes // 4)
    strategy, reason = choice.choose(store, config.run, gradient_bytes, config.num_peers, compressed_bytes)
    say(f"exchange {reason}")
    return replace(config, exchange=strategy)


def automatic_packing(config: RunConfig, shards: list[Shard], batch_seconds: float) -> int:
    """Return how many batches go into one invocation.

    As many as give each peer its part of five replicas one invocation a round, but never so many that an
    invocation takes more than half of the time that it may.
    """
    most = config.batches_per_round or max(shard.num_batches(config.batch_size) for shard in shards)
    lanes = max(1, _REPLICAS_TO_FILL // config.num_peers)
    fitting = int(config.invocation_seconds / 2 / batch_seconds) if batch_seconds > 0 else most
    return max(1, min(-(-most // lanes), fitting))


def load(store: Store, run: str) -> RunConfig:
    """Return the configuration of a run.

    Raises:
        ConfigurationError: there is no such run.
    """
    config = store.get_message_if_exists(keys.run_config(run), RunConfig)
    if config is None:
        raise ConfigurationError(f"there is no run {run!r}: `peerless runs list` shows those that are")
    return config


def resume(store: Store, run: str, liveness: Liveness) -> tuple[RunConfig, RunStart]:
    """Return a run's configuration and a new generation that begins at its newest complete checkpoint.

    `liveness` must have the run's own heartbeat: a peer that beats more slowly would pass for dead.
    What earlier generations left behind is deleted; no live peer reads it, since every rank is free.

    Raises:
        ConfigurationError: there is no such run.
        RankTaken: a peer of it is running; nothing was deleted.
        CheckpointError: it has no checkpoint, or it is finished.
    """
    config = load(store, run)
    if store.head(keys.run_summary(run)) is not None:
        raise CheckpointError(f"run {run} is finished: `peerless runs show {run}` shows its result")
    check_free(store, run, range(config.num_peers), liveness)
    newest = checkpoint.newest(store, run)
    member = store.get_message_if_exists(keys.member(run, 0), MemberRecord)
    generation = 1 + (member.generation if member else 0)
    for old in range(generation):
        store.delete([key for key, _ in store.list(keys.generation(run, old))])
    return config, RunStart(generation=generation, resumed_round=newest.round)


def join(store: Store, run: str, patience_seconds: float) -> tuple[RunConfig, RunStart]:
    """Return a run's configuration and generation once rank 0 is alive in it; for every other rank.

    Raises:
        PeerLost: rank 0 has not shown itself within `patience_seconds`.
    """
    first: MemberRecord | None = None

    def probe() -> MemberRecord | None:
        nonlocal first
        record = store.get_message_if_exists(keys.member(run, 0), MemberRecord)
        first = first or record
        if record is None or first is None or record.state != "running":
            return None
        has_moved = (record.incarnation, record.counter) != (first.incarnation, first.counter)
        return record if has_moved else None

    record = poll(probe, Patience(patience_seconds, first_seconds=0.25, longest_seconds=0.25))
    if record is not None:
        return load(store, run), RunStart(record.generation, record.resumed_round)
    raise PeerLost(
        f"peer 0 of run {run} has not begun within {patience_seconds:.0f} s: "
        f"start it with `peerless peer {run} --rank 0`"
    )


@dataclass(frozen=True)
class RunListing:
    """One run as `runs list` shows it; `state` is what rank 0 last said of itself."""

    config: RunConfig
    state: str
    round: int | None


def list_runs(store: Store) -> Iterator[RunListing]:
    """Yield the runs of the bucket, by name; those that cannot be read are logged and left out."""
    names = sorted(
        {
            match[1]
            for key, _ in store.list("runs/")
            if (match := re.fullmatch(r"runs/([^/]+)/config\.json", key))
        }
    )
    for name in names:
        member = store.get_message_if_exists(keys.member(name, 0), MemberRecord)
        rounds = [keys.round_of_checkpoint(key) for key, _ in store.list(keys.checkpoints(name))]
        newest = max((found for found in rounds if found is not None), default=None)
        try:
            config = load(store, name)
        except ObjectCorrupt as error:
            log.warning("run %s is left out: %s", name, error)
            continue
        yield RunListing(config, member.state if member else "created", newest)


def remove(store: Store, run: str) -> int:
    """Delete everything of a run, its configuration last, and return how many objects that were.

    Raises:
        ConfigurationError: there is no such run.
    """
    found = [key for key, _ in store.list(keys.run(run))]
    if not found:
        load(store, run)
    config_key = keys.run_config(run)
    store.delete([key for key in found if key != config_key])
    store.delete([config_key])
    return len(found)


def collect_garbage(store: Store, run: str) -> int:
    """Delete what a crash left of a run's rounds and weights, and return how many objects that were.

    Checkpoints, the result and whatever they name stay.

    Raises:
        ConfigurationError: there is no such run.
        RankTaken: a peer of it is running.
    """
    config = load(store, run)
    check_free(store, run, range(config.num_peers), _PATIENT)
    named = {config.initial_weights} if not list(store.list(keys.checkpoints(run))) else set()
    for key, _ in store.list(keys.checkpoints(run)):
        round_number = keys.round_of_checkpoint(key)
        if round_number is not None:
            named.add(checkpoint.read(store, run, round_number).weights.checksum)
    summary = store.get_message_if_exists(keys.run_summary(run), Summary)
    if summary is not None:
        named.add(f"sha256:{summary.weights_sha256}")
    kept = {keys.weights(run, checksum.removeprefix("sha256:")) for checksum in named}
    prefixes = (keys.generations(run), keys.all_weights(run), keys.replies(run))
    garbage = [key for prefix in prefixes for key, _ in store.list(prefix) if key not in kept]
    store.delete(garbage)
    return len(garbage)


def _check_batches(config: RunConfig, shards: list[Shard]) -> None:
    smallest = min(shard.num_batches(config.batch_size) for shard in shards)
    if config.batches_per_round > smallest:
        raise ConfigurationError(
            f"--batches-per-round is {config.batches_per_round}, but the smallest shard has {smallest} "
            f"batches of {config.batch_size}: take at most {smallest}, or `all`"
        )


def initial_model(config: RunConfig, dataset: DatasetManifest) -> nn.Module:
    """Return the model with the weights that this seed gives; rank 0 alone initialises."""
    use_one_thread()
    return initialise(config.model, dataset.num_classes, config.seed, dataset.shape)


def publish_initial_weights(store: Store, config: RunConfig, model: nn.Module) -> StoredObject:
    """Put a model's weights as those that a run begins with."""
    encoded = weights.encode(Layout.of(model).flatten(model))
    checksum = encoded.sha256()
    key = keys.weights(config.run, checksum.removeprefix("sha256:"))
    store.put(key, encoded.chunks, encoded.length)
    return StoredObject(key=key, length=encoded.length, checksum=checksum)
