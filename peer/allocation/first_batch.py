"""One batch, computed as every batch will be, before a run is frozen.

What cannot work is said once, at the start; what does not fit is adapted, and frozen so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from peer.allocation.adaptation import Adapter, described
from peer.allocation.memory_limit import Limits
from peer.compute import Compute, Means
from peer.config import RunConfig, is_adaptive
from peer.errors import ObjectCorrupt, OutOfMemory
from peer.garbage import Garbage
from peer.invocations.fanout import FanOut, RetryPolicy
from peer.invocations.invokers import Invoker, adapting
from peer.learning.datasets.manifest import DatasetManifest
from peer.learning.shards import Shard
from peer.messages import Adaptation, StoredObject
from peer.records.phases import PhaseClock
from peer.records.rounds import FunctionMemory, Work
from peer.store.s3 import Store

_OUTAGE_SECONDS = 20.0
_ROLL_OUT_SECONDS = 60.0


@dataclass(frozen=True)
class FirstBatch:
    """What became of the first batch.

    Attributes:
        seconds: that it took where it was computed.
        micro_batch: with which it fitted.
        limit_bytes: of the replica that computed it, 0 if it is not known.
        adaptations: that this took.
    """

    seconds: float
    micro_batch: int
    limit_bytes: int
    adaptations: list[Adaptation]


@dataclass(frozen=True)
class Samples:
    """Where the first batch is taken from, and the weights that it is computed at."""

    dataset: DatasetManifest
    shard: Shard
    weights: StoredObject


def try_one_batch(
    store: Store,
    config: RunConfig,
    samples: Samples,
    invoker: Invoker,
    limits: Limits,
    say: Callable[[str], None],
) -> FirstBatch:
    """Return how one batch was computed.

    Args:
        store: where its gradient goes, and is deleted.
        config: of the run that is to begin.
        samples: what is computed.
        invoker: computes it.
        limits: how memory limits rise.
        say: told of each adaptation.

    Raises:
        OutOfMemory: it does not fit, and nothing is left to adapt.
        DatasetError, FunctionError, StoreError: it was not computed.
    """
    work, adaptations = Work(), list[Adaptation]()

    def on_adapted(adaptation: Adaptation) -> None:
        adaptations.append(adaptation)
        say(f"{described(adaptation)}: {adaptation.reason}")

    adapter = Adapter(config, 0, limits, _ROLL_OUT_SECONDS, on_adapted)
    compute_batch(store, config, samples, adapting(invoker, config, adapter), work)
    counts = work.take()
    seconds: dict[str, float] = counts["function_seconds"]
    memory: FunctionMemory = counts["functions"]["gradient"]
    return FirstBatch(
        seconds=seconds.get("compute", 0.0) + seconds.get("preprocess", 0.0),
        micro_batch=adapter.micro_batch,
        limit_bytes=memory.limit_bytes,
        adaptations=adaptations,
    )


def compute_batch(store: Store, config: RunConfig, samples: Samples, invoker: Invoker, work: Work) -> None:
    """Return once one batch has been computed, and its gradient deleted; raises as `try_one_batch`."""
    fan_out = FanOut(1, _policy(config), work.add_retry)
    garbage = Garbage(store, is_kept=False)
    one = replace(config, batches_per_round=1, batches_per_invocation=1)
    try:
        means = Means(invoker, fan_out, garbage, PhaseClock(), work)
        compute = Compute(one, 0, 0, samples.dataset, samples.shard, means)
        compute.gradient(0, samples.weights, config.optimizer.learning_rate)
    except OutOfMemory as error:
        raise OutOfMemory(
            f"model {config.model.name} with --batch-size {config.batch_size} does not fit: {error}"
        ) from error
    except ObjectCorrupt as error:
        dataset = samples.dataset
        again = f"`peerless data remove {dataset.id}`, `peerless data push {dataset.name}`"
        raise ObjectCorrupt(f"{error}. Store the dataset again: {again}") from error
    finally:
        fan_out.close()
        garbage.close()


def _policy(config: RunConfig) -> RetryPolicy:
    """Return a policy that gives up soon, but for what an adaptation may need: tries, and other replicas."""
    if not is_adaptive(config):
        return RetryPolicy(_OUTAGE_SECONDS, max_failures=1, max_out_of_memory=0)
    max_failures = RetryPolicy().max_failures if config.largest_memory_bytes else 1
    return RetryPolicy(_OUTAGE_SECONDS, max_failures, max_out_of_memory=math.inf)
