"""A run's plan: profile measured or recalled, plan made and frozen, and in force while the run goes on."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from peer.allocation import measuring, profiles
from peer.allocation.first_batch import Samples, compute_batch
from peer.allocation.measuring import Observing
from peer.allocation.memory_limit import limit_of, with_memory
from peer.allocation.planner import plan
from peer.allocation.plans import Caps, Plan, Shape
from peer.config import GatewayAddress, RunConfig
from peer.errors import OutOfMemory, PeerlessError
from peer.gateway import Gateway, specification_of
from peer.learning.datasets.manifest import TRAIN, DatasetManifest
from peer.learning.shards import Shard
from peer.local.gateway import ready_replicas
from peer.records.rounds import Work
from peer.store.retry import Patience, retry
from peer.store.s3 import Store

log = logging.getLogger(__name__)

_MOST_WITHOUT_LABEL = 5
"""What OpenFaaS Community Edition allows a function."""

_READY = Patience(total_seconds=60.0, first_seconds=0.05, longest_seconds=0.5)


def try_small_passes(store: Store, config: RunConfig, samples: Samples, observing: Observing) -> None:
    """Compute one batch in small passes until a warm replica has; nothing is seen if not even those fit.

    It comes before whole batches, for a replica keeps what it has once used.

    Raises:
        DatasetError, FunctionError, StoreError: as the first batch would.
    """
    size = (config.micro_batch or config.batch_size) // measuring.SMALL_SHARE
    if config.indivisible_layer or not size:
        return
    _until_warm(store, replace(config, micro_batch=size), samples, observing, size)


def with_plan(
    store: Store,
    config: RunConfig,
    samples: Samples,
    shards: Sequence[Shard],
    observing: Observing,
    address: GatewayAddress,
    say: Callable[[str], None],
) -> RunConfig:
    """Return the configuration with a plan for its target, made from a profile that is in the store now.

    Args:
        store: where profiles are.
        config: at sizes that fit; packing and micro-batch may be open.
        samples: of the batch that was tried.
        shards: of all peers.
        observing: what computed that batch.
        address: of the gateway.
        say: told of each choice, in a line.

    Raises:
        DatasetError, FunctionError, StoreError: as the first batch would.
    """
    dataset = samples.dataset
    shape = shape_of(config, dataset, shards, samples.weights.length)
    profile = profiles.measured(store, config, dataset, address.url)
    by, measured = profile or ("", None)
    known = measured.passes if measured else []
    if measured is not None and any(each.samples == shape.largest_pass for each in known):
        say(f"profile as run {by} measured it")
    else:
        _until_warm(store, config, samples, observing, shape.largest_pass)
        measured = measuring.measured(observing.seen, address.url, known)
        profiles.keep(store, config, dataset, measured)
        say(f"profile measured by {len(observing.seen)} invocations of one batch")
    found = plan(config.optimize, measured, shape, caps_of(config, address))
    for reason in found.reasons:
        say(f"plan for {found.target}: {reason}")
    packing, micro_batch = found.batches_per_invocation, found.micro_batch
    return replace(config, batches_per_invocation=packing, micro_batch=micro_batch, plan=found)


def shape_of(
    config: RunConfig, dataset: DatasetManifest, shards: Sequence[Shard], gradient_bytes: int
) -> Shape:
    """Return what a plan has to know of a run; what is asked for is what the adaptation did not choose."""
    num_samples = max(shard.num_samples for shard in shards)
    batch_size = min(config.batch_size, num_samples)
    part_bytes = dataset.splits[TRAIN].orders[shards[0].order].parts[0].length
    is_adapted = any(each.what == "micro_batch" for each in config.adaptations)
    return Shape(
        num_peers=config.num_peers,
        num_batches=config.batches_per_round or max(shard.num_batches(config.batch_size) for shard in shards),
        batch_size=batch_size,
        gradient_bytes=gradient_bytes,
        shard_bytes=part_bytes * max(map(_num_parts, shards)),
        largest_pass=min(config.micro_batch or batch_size, batch_size),
        indivisible_layer=config.indivisible_layer,
        batches_per_invocation=config.batches_per_invocation,
        micro_batch=0 if is_adapted else config.micro_batch,
    )


def _num_parts(shard: Shard) -> int:
    """Return how many stored parts a shard's samples are in."""
    size = shard.samples_per_part
    return len({part for start, stop in shard.blocks for part in range(start // size, -(-stop // size))})


def caps_of(config: RunConfig, address: GatewayAddress) -> Caps:
    """Return what the gateway and the user's options allow; without the password, one replica as it is.

    Raises:
        FunctionError: the gateway cannot be asked.
    """
    description: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    if address.password:
        gateway = Gateway(address)
        description = gateway.describe("gradient")
        machine = gateway.info().get("machine") or {}
    label = str((description.get("labels") or {}).get("com.openfaas.scale.max", ""))
    most = int(label) if label.isdecimal() else _MOST_WITHOUT_LABEL
    return Caps(
        replicas=max(1, int(description.get("replicas", 1))),
        most_replicas=min(config.most_replicas, most) if description else 0,
        limit_bytes=limit_of(description),
        largest_limit_bytes=config.largest_memory_bytes,
        cores=int(machine.get("cores", 0)),
        available_bytes=int(machine.get("available_bytes", 0)),
        timeout_seconds=config.invocation_seconds,
    )


def compared(
    store: Store, config: RunConfig, dataset: DatasetManifest, shape: Shape, address: GatewayAddress
) -> tuple[str, Callable[[str], Plan]] | None:
    """Return whose profile there is, and what it makes of a target; None if there is none."""
    profile = profiles.measured(store, config, dataset, address.url)
    if profile is None:
        return None
    by, measured = profile
    caps = caps_of(config, address)
    return by, lambda target: plan(target, measured, shape, caps)


@contextmanager
def in_force(config: RunConfig, address: GatewayAddress) -> Iterator[None]:
    """Give the block a gateway with the plan's replicas and limit, as far as the user has allowed them.

    Afterwards the function has its replicas again, and its limit if the plan has lowered it, unless somebody
    has changed them meanwhile. A limit that was raised stays, as an adaptation's does. What fails is logged:
    the run goes on with what there is.
    """
    plan, before = config.plan, dict[str, Any]()
    is_allowed = bool(config.largest_memory_bytes or config.most_replicas)
    if plan is None or not is_allowed or not address.password:
        yield
        return
    gateway = Gateway(address)
    with _logging("replicas and memory limit of gradient are not as planned"):
        before = gateway.describe("gradient")
        _set(config, plan, before, gateway)
    try:
        yield
    finally:
        with _logging("replicas and memory limit of gradient are not as they were before the run"):
            _put_back(plan, before, gateway)


def _until_warm(store: Store, config: RunConfig, samples: Samples, observing: Observing, size: int) -> None:
    """Compute a batch in passes of `size` until a warm replica has, or memory runs out."""
    held = replace(config, no_adapt=True)
    try:
        for _ in range(measuring.MOST_TRIES):
            if measuring.is_warm(observing.seen, size):
                return
            compute_batch(store, held, samples, observing, Work())
    except OutOfMemory as error:
        log.info("passes of %d samples are not measured: %s", size, error)


@contextmanager
def _logging(what: str) -> Iterator[None]:
    """Log what ends the block early: sizes at the gateway make no run right or wrong."""
    try:
        yield
    except PeerlessError as error:
        log.warning("%s: %s", what, error)


def _set(config: RunConfig, plan: Plan, before: dict[str, Any], gateway: Gateway) -> None:
    """Return once the function has the plan's sizes, as far as they may be set."""
    if config.largest_memory_bytes and plan.limit_bytes not in (0, limit_of(before)):
        gateway.update(with_memory(before, plan.limit_bytes))
    if config.most_replicas and plan.replicas != before.get("replicas"):
        gateway.scale("gradient", plan.replicas)
    retry(lambda: ready_replicas(gateway, "gradient"), _READY)


def _put_back(plan: Plan, before: dict[str, Any], gateway: Gateway) -> None:
    now = gateway.describe("gradient")
    limit_bytes, limit_before = limit_of(now), limit_of(before)
    if limit_bytes != limit_before and plan.limit_bytes <= limit_bytes < limit_before:
        limits = {**now["limits"], "memory": before["limits"]["memory"]}
        gateway.update({**specification_of(now), "limits": limits})
    if now.get("replicas") == plan.replicas != before.get("replicas"):
        gateway.scale("gradient", int(before["replicas"]))
