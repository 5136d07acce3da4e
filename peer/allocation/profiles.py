"""What fitted and how long it took: remembered of a model's gradients for the next run."""

from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from peer import messages
from peer.allocation.plans import Measured
from peer.config import RunConfig, current_versions
from peer.learning.datasets.manifest import DatasetManifest
from peer.messages import Adaptation, Message
from peer.sizes import mib
from peer.store import keys
from peer.store.s3 import Store

_RECORD_BYTES = 2048
"""Every profile has this length, so that no server can show a torn one as shorter."""


class Profile(Message, frozen=True, forbid_unknown_fields=False):
    """The last run's sizes that fitted: its micro-batch (0: whole batches) under a limit (0: not known).

    `measured` is what invocations of run `measured_by` took. Fields that are not listed are ignored:
    profiles outlive the version that wrote them.
    """

    run: str
    micro_batch: int = 0
    limit_bytes: int = 0
    measured: Measured | None = None
    measured_by: str = ""


def key_of(config: RunConfig, dataset: DatasetManifest) -> str:
    """Return the key of the profile of a model, fed with such samples, and a batch size.

    A function that takes local steps holds an optimizer, too, so it has another.
    """
    samples = [dataset.shape, dataset.num_classes]
    identity = [config.model, samples, config.batch_size, config.local_steps > 0]
    return keys.profile(sha256(messages.encode(identity)).hexdigest()[:32])


def recalled(store: Store, config: RunConfig, dataset: DatasetManifest, limit_bytes: int) -> RunConfig:
    """Return the configuration with the micro-batch that fitted last time, if it was a smaller one.

    Args:
        store: where profiles are.
        config: of a run that has not begun.
        dataset: the run's.
        limit_bytes: what the function may use now, 0 if it is not known; with more than last time, the last
            time says nothing.
    """
    profile = store.get_message_if_exists(key_of(config, dataset), Profile)
    size = config.micro_batch or config.batch_size
    if profile is None or config.indivisible_layer or not 0 < profile.micro_batch < size:
        return config
    if 0 < profile.limit_bytes < max(limit_bytes, config.largest_memory_bytes):
        return config
    limit = f" at {mib(profile.limit_bytes)}" if profile.limit_bytes else ""
    reason = f"so run {profile.run} fitted{limit}"
    adaptation = Adaptation("micro_batch", "gradient", 0, 0, size, profile.micro_batch, reason)
    return replace(config, micro_batch=profile.micro_batch, adaptations=[*config.adaptations, adaptation])


def remember(
    store: Store, config: RunConfig, dataset: DatasetManifest, micro_batch: int, limit_bytes: int
) -> None:
    """Leave what fitted for the next run of this model and batch size; only peer 0 does.

    A micro-batch that was asked for or planned says nothing of whole batches, so it is not remembered.
    """
    is_adapted = micro_batch != config.micro_batch or any(
        each.what == "micro_batch" for each in config.adaptations
    )
    if micro_batch == 0 or is_adapted:
        _update(store, config, dataset, run=config.run, micro_batch=micro_batch, limit_bytes=limit_bytes)


def measured(
    store: Store, config: RunConfig, dataset: DatasetManifest, gateway: str
) -> tuple[str, Measured] | None:
    """Return which run has measured this model and batch size there, and what; None if none has.

    What was measured with other versions of torch or peerless does not count.
    """
    profile = store.get_message_if_exists(key_of(config, dataset), Profile)
    if profile is None or profile.measured is None:
        return None
    found = profile.measured
    is_of_here = (found.gateway, found.versions) == (gateway, current_versions())
    return (profile.measured_by, found) if is_of_here else None


def keep(store: Store, config: RunConfig, dataset: DatasetManifest, measured: Measured) -> None:
    """Leave what invocations took for the plans of later runs; only peer 0 does."""
    _update(store, config, dataset, measured=measured, measured_by=config.run)


def _update(store: Store, config: RunConfig, dataset: DatasetManifest, **fields: Any) -> None:
    key = key_of(config, dataset)
    profile = store.get_message_if_exists(key, Profile) or Profile(config.run)
    store.put_bytes(key, messages.encode(replace(profile, **fields)).ljust(_RECORD_BYTES))
