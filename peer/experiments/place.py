"""Where an experiment runs: a platform of its own, or a gateway and a store that somebody else keeps."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from peer.config import GatewayAddress
from peer.errors import GatewayUnreachable, PlatformError
from peer.gateway import Gateway
from peer.local_gateway import ready_replicas
from peer.platform import Platform, PlatformOptions
from peer.processes import has_ended
from peer.store.retry import Patience, retry
from peer.store.s3 import Store, StoreAddress

FUNCTION = "gradient"

_READY = Patience(total_seconds=120.0, first_seconds=0.1, longest_seconds=1.0)

Say = Callable[[str], None]


class Place:
    """A gateway and a store, for one cell after the other.

    Args:
        store: where runs and datasets go.
        gateway: with its password, if replicas are to be asked for.
        outage_seconds: how long either may be away before the experiment ends.
    """

    def __init__(self, store: StoreAddress, gateway: GatewayAddress, outage_seconds: float) -> None:
        self.store_address = store
        self.gateway_address = gateway
        self.outage_seconds = outage_seconds
        self._replicas_before: int | None = None

    def wait(self, say: Say) -> None:
        """Return once the gateway answers.

        Raises:
            GatewayUnreachable: it stays away.
        """
        gateway, is_first = Gateway(self.gateway_address), True

        def missed(_error: Exception) -> None:
            nonlocal is_first
            if is_first:
                say(f"the gateway does not answer: waiting for it, at most {self.outage_seconds:.0f} s")
            is_first = False

        retry(gateway.check, Patience(self.outage_seconds, longest_seconds=2.0), on_retry=missed)

    def scale(self, replicas: int | None) -> None:
        """Return once the function `gradient` has so many replicas; None leaves them as they are.

        Raises:
            FunctionError, PlatformError: it does not come to that.
        """
        if replicas is None:
            return
        gateway = Gateway(self.gateway_address)
        before = int(gateway.describe(FUNCTION).get("replicas", 0))
        if self._replicas_before is None:
            self._replicas_before = before
        if before != replicas:
            gateway.scale(FUNCTION, replicas)
        retry(partial(ready_replicas, gateway, FUNCTION), _READY)

    def restore(self) -> None:
        """Give the function as many replicas as it had, if that was changed and the gateway is there."""
        if self._replicas_before is None:
            return
        try:
            Gateway(self.gateway_address).scale(FUNCTION, self._replicas_before)
        except GatewayUnreachable:
            return


class OwnPlatform(Place):
    """A platform that runs for the experiment alone; parts of it that have died are started again."""

    def __init__(self, platform: Platform, options: PlatformOptions, outage_seconds: float) -> None:
        self._platform = platform
        self._options = options
        platform.up(options, _ignore)
        super().__init__(*_addresses(platform), outage_seconds)

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
