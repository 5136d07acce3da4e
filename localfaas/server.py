"""`localfaas serve`: everything put together, from the first file to the last signal."""

import asyncio
import errno
import fcntl
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
import uvloop
from a2wsgi import WSGIMiddleware

from localfaas import __version__
from localfaas.api import create_control_api
from localfaas.async_endpoint import AsyncEndpoint
from localfaas.async_queue import AsyncQueue
from localfaas.async_store import CallStore
from localfaas.auth import load_or_create_credentials
from localfaas.autoscaler import Autoscaler
from localfaas.client_connection import ClientConnection, ClientLimits, raise_descriptor_limit
from localfaas.config import GatewayConfig, StatePaths, write_atomically
from localfaas.errors import ConfigurationError, PortInUse
from localfaas.gateway import Functions, Gateway
from localfaas.invocation import AsgiApp
from localfaas.runtimes.choose import create_runtime
from localfaas.runtimes.interface import Runtime

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 2_048
_CONTROL_THREADS = 8
# Longer than clients keep a connection for its next request, so that none meets a closing one.
_KEEP_ALIVE_SECONDS = 120
# The rest is for replicas, which take three each, logs and files.
_DESCRIPTORS_FOR_CLIENTS = 0.75
_TICKS_PER_CHECK = 10
_WARNING_PERIOD_SECONDS = 60.0


def serve(config: GatewayConfig) -> None:
    """Run a gateway until SIGTERM or SIGINT; nothing of it is left running then.

    Raises:
        ConfigurationError: the state directory cannot be used, or a gateway runs on it already.
        PortInUse: another process has the port, and no other may be taken.
    """
    paths = StatePaths(config.state_dir)
    paths.create()
    with _only_gateway(paths), _listen(config) as listening:
        # A gateway that was killed has left its own, with an address that may be somebody else's by now.
        paths.gateway.unlink(missing_ok=True)
        runtime = create_runtime(config, paths)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, paths, runtime, listening))


async def _serve(
    config: GatewayConfig, paths: StatePaths, runtime: Runtime, listening: socket.socket
) -> None:
    functions = Functions(config, runtime)
    queue = AsyncQueue(CallStore(paths.calls), functions, config)
    app: Any = create_control_api(functions, queue, asyncio.get_running_loop())
    control = cast(AsgiApp, WSGIMiddleware(app, workers=_CONTROL_THREADS))
    later = AsyncEndpoint(queue, functions, config.max_async_body_bytes)
    gateway = Gateway(functions, load_or_create_credentials(paths), control, later, config)
    limits = ClientLimits(
        config.client_patience_seconds, int(_DESCRIPTORS_FOR_CLIENTS * raise_descriptor_limit())
    )
    server_config = uvicorn.Config(
        gateway,
        http=cast(type[asyncio.Protocol], partial(ClientConnection, limits=limits)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(config.grace_seconds)),
    )
    server = _Server(server_config, functions, queue, paths, limits)
    autoscaling = asyncio.get_running_loop().create_task(Autoscaler(functions).run())
    try:
        await functions.restore()
        await queue.restore()
        await server.serve(sockets=[listening])
    finally:
        autoscaling.cancel()
        queue.stop()
        await functions.close()
        await queue.close()
        paths.gateway.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Says where it listens once it does, and lets waiting requests go as soon as it is told to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        functions: Functions,
        queue: AsyncQueue,
        paths: StatePaths,
        limits: ClientLimits,
    ) -> None:
        super().__init__(config)
        self._functions = functions
        self._queue = queue
        self._paths = paths
        self._loop = asyncio.get_running_loop()
        self._max_connections = limits.max_connections
        self._checked_at = self._loop.time()
        self._warned_at = self._checked_at - _WARNING_PERIOD_SECONDS

    async def on_tick(self, counter: int) -> bool:
        """Look at every connection once a second; uvicorn calls this ten times as often."""
        if counter % _TICKS_PER_CHECK == 0:
            now = self._loop.time()
            connections = cast(set[ClientConnection], self.server_state.connections)
            for connection in tuple(connections):
                connection.check(now - self._checked_at)
            self._checked_at = now
            if len(connections) > self._max_connections and now > self._warned_at + _WARNING_PERIOD_SECONDS:
                self._warned_at = now
                _log.warning(
                    "%d connections are open; those above %d are answered 503: raise the limit of "
                    "open files (`ulimit -n`)",
                    len(connections),
                    self._max_connections,
                )
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port, *_ = (sockets or [])[0].getsockname()
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._announce(url)

    def _announce(self, url: str) -> None:
        """Say where the gateway listens, as far as disks take it: a gateway serves without having said so."""
        fields = {"url": url, "pid": os.getpid(), "version": __version__}
        try:
            write_atomically(self._paths.gateway, json.dumps(fields) + "\n")
        except OSError as error:
            _log.error("%s cannot be written, it would say %s: %s", self._paths.gateway, url, error.strerror)
        try:
            print(f"localfaas listens at {url}, password in {self._paths.password}", flush=True)
        except OSError as error:
            _log.error("stdout cannot be written, it would say %s: %s", url, error.strerror)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End gracefully at SIGTERM and SIGINT; the original raises them again, before we have cleaned up."""
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        self._queue.stop()
        self._functions.stop_accepting()
        self.handle_exit(number, None)


@contextmanager
def _only_gateway(paths: StatePaths) -> Iterator[None]:
    """Hold the state directory's lock, which the kernel takes back however this process ends."""
    with paths.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"a gateway runs on {paths.root} already; stop it, or choose another --state-dir"
            ) from error
        yield


def _listen(config: GatewayConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    for port in (config.port, 0) if config.is_port_fallback else (config.port,):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, port))
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise ConfigurationError(
                    f"cannot listen at {config.host}:{port}: {error.strerror}"
                ) from error
            _log.warning("port %d of %s is in use", port, config.host)
        else:
            return listening
    raise PortInUse(
        f"port {config.port} of {config.host} is in use; choose another --port (0 for any), or add "
        "--port-fallback"
    )
