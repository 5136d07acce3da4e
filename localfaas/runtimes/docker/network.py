"""The network of a gateway's containers: there as long as one of them is."""

import asyncio
import logging

from localfaas.errors import RuntimeUnavailable
from localfaas.runtimes.docker.engine import Engine, EngineRefused
from localfaas.runtimes.docker.workers import Workers

_log = logging.getLogger(__name__)


class PrivateNetwork:
    """Made for the first container, removed after the last."""

    def __init__(self, name: str, labels: dict[str, str], engine: Engine, workers: Workers) -> None:
        self.name = name
        self._labels = labels
        self._engine = engine
        self._workers = workers
        self._num_users = 0
        self._lock = asyncio.Lock()

    async def acquire(self) -> None:
        """Have the network stay until `release`; not to be cancelled, for its threads cannot be.

        Raises:
            EngineRefused, RuntimeUnavailable: it cannot be made; there is nothing to release.
        """
        async with self._lock:
            if self._num_users == 0:
                await self._workers.run(self._engine.ensure_network, self.name, self._labels)
            self._num_users += 1

    async def release(self) -> None:
        """Remove the network if nobody else wants it; one that cannot be removed is logged."""
        async with self._lock:
            self._num_users -= 1
            await self._remove_if_unused()

    async def remove_if_unused(self) -> None:
        """Leave no network that nobody holds, also none of an earlier gateway; as in `release`."""
        async with self._lock:
            await self._remove_if_unused()

    async def _remove_if_unused(self) -> None:
        if self._num_users:
            return
        try:
            await self._workers.run(self._engine.remove_network, self.name)
        except (EngineRefused, RuntimeUnavailable) as error:
            _log.warning("network %s is left: %s", self.name, error)
