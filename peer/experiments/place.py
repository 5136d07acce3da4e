"""Where an experiment runs: a platform of its own, or a gateway and a store that somebody else keeps."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from peer.config import GatewayAddress
from peer.errors import GatewayUnreachable, PlatformError
from peer.gateway import Gateway, specification_of
from peer.local.gateway import ready_replicas
from peer.local.platform import FUNCTIONS, Platform, PlatformOptions
from peer.local.processes import has_ended
from peer.store.retry import Patience, retry
from peer.store.s3 import Store, StoreAddress

log = logging.getLogger(__name__)

FUNCTION = "gradient"

_READY = Patience(total_seconds=120.0, first_seconds=0.1, longest_seconds=1.0)

Say = Callable[[str], None]


class Place:
    """A gateway and a store, for one cell after the other.

    Args:
        store: where runs and datasets go.
        gateway: with its password, if functions are to be put back as they were.
        outage_seconds: how long either may be away before the experiment ends.
    """

    def __init__(self, store: StoreAddress, gateway: GatewayAddress, outage_seconds: float) -> None:
        self.store_address = store
        self.gateway_address = gateway
        self.outage_seconds = outage_seconds
        self._replicas_before: int | None = None
        self._limits_before: dict[str, dict[str, str]] = {}

    def wait(self, say: Say) -> None:
        """Return once the gateway answers, if there is one.

        Raises:
            GatewayUnreachable: it stays away.
        """
        if not self.gateway_address.url:
            return
        gateway, is_first = Gateway(self.gateway_address), True

        def missed(_error: Exception) -> None:
            nonlocal is_first
            if is_first:
                say(f"the gateway does not answer: waiting for it, at most {self.outage_seconds:.0f} s")
            is_first = False

        retry(gateway.check, Patience(self.outage_seconds, longest_seconds=2.0), on_retry=missed)

    def prepare(self, replicas: int | None) -> None:
        """Return once functions have the limits that they had at first, and `gradient` so many replicas.

        A cell may have raised limits (`largest-memory`), which the next one is not to find.

        Args:
            replicas: None leaves them as they are.

        Raises:
            FunctionError, PlatformError: it does not come to that.
        """
        if not self.gateway_address.password and replicas is None:
            return  # the gateway cannot be asked
        gateway = Gateway(self.gateway_address)
        self._put_limits_back(gateway)
        if replicas is not None:
            before = int(gateway.describe(FUNCTION).get("replicas", 0))
            if self._replicas_before is None:
                self._replicas_before = before
            if before != replicas:
                gateway.scale(FUNCTION, replicas)
        retry(partial(ready_replicas, gateway, FUNCTION), _READY)

    def restore(self) -> None:
        """Put back what cells have changed of the functions, if the gateway is there."""
        gateway = Gateway(self.gateway_address)
        try:
            if self._limits_before:
                self._put_limits_back(gateway)
            if self._replicas_before is not None:
                gateway.scale(FUNCTION, self._replicas_before)
        except GatewayUnreachable as error:
            log.warning("functions may have other limits or replicas than before: %s", error)

    def _put_limits_back(self, gateway: Gateway) -> None:
        for function in FUNCTIONS:
            description = gateway.describe(function)
            limits = description.get("limits") or {}
            before = self._limits_before.setdefault(function, limits)
            if limits != before:
                gateway.update({**specification_of(description), "limits": before})


class OwnPlatform(Place):
    """A platform that runs for the experiment alone; parts of it that have died are started again."""

    def __init__(self, platform: Platform, options: PlatformOptions, outage_seconds: float) -> None:
        self._platform = platform
        self._options = options
        platform.up(options, _ignore)
        super().__init__(*_addresses(platform), outage_seconds)
        self.usual_replicas = int(Gateway(self.gateway_address).describe(FUNCTION)["replicas"])

    def prepare(self, replicas: int | None) -> None:
        """See `Place.prepare`; each cell has new replicas, as many as there were at first.

        So their memory is what this cell needs, and what the autoscaler did in the one before is undone.
        """
        Gateway(self.gateway_address).scale(FUNCTION, 0)
        super().prepare(self.usual_replicas if replicas is None else replicas)

    def wait(self, say: Say) -> None:
        """See `Place.wait`."""
        state = self._platform.state()
        parts = (state.store, state.gateway)
        if any(part is None or has_ended(part.process) for part in parts):
            say("a part of the platform has ended: it is started again")
            self._platform.up(self._options, _ignore)
            self.store_address, self.gateway_address = _addresses(self._platform)
        super().wait(say)

    def restore(self) -> None:
        """Leave it: nobody else uses it."""


@contextmanager
def own_platform(directory: Path, options: PlatformOptions, outage_seconds: float) -> Iterator[OwnPlatform]:
    """Give the block a platform whose state is in `directory`; it has ended afterwards, its data stay.

    Raises:
        ConfigurationError, PlatformError, StoreFull: see `Platform.up`.
    """
    platform = Platform(directory)
    try:
        yield OwnPlatform(platform, dataclasses.replace(options, state_dir=directory), outage_seconds)
    finally:
        platform.down(_ignore)


@contextmanager
def given_place(store: StoreAddress, gateway: GatewayAddress, outage_seconds: float) -> Iterator[Place]:
    """Give the block a place that is somebody else's, of which nothing is started or ended.

    Raises:
        StoreError: the store is not there, or refuses us.
    """
    place = Place(store, gateway, outage_seconds)
    checked = Store(store)
    checked.check()
    checked.ensure_bucket()
    checked.close()
    try:
        yield place
    finally:
        place.restore()


def _addresses(platform: Platform) -> tuple[StoreAddress, GatewayAddress]:
    store, gateway = platform.store_address(), platform.gateway_address()
    if store is None or gateway is None:
        raise PlatformError(f"the platform in {platform.state_dir} was ended meanwhile")
    return store, gateway


def _ignore(_text: str) -> None:
    """Say nothing."""
