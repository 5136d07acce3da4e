"""The platform on one machine: an S3 store and an OpenFaaS-compatible gateway, as background processes.

`peerless up` starts what is not running, deploys `stack.yml` and records where everything is; `peerless down`
ends it. The gateway is started as a process and spoken to over its REST API: nothing here imports it.
"""

import dataclasses
import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from peer import messages
from peer.config import GatewayAddress
from peer.errors import ConfigurationError, GatewayUnreachable, PlatformError, StoreFull
from peer.files import replace_file
from peer.gateway import Gateway
from peer.local.companions import Companion, CompanionState, start_companion, wait_for_companion
from peer.local.docker_bridge import bridge_address
from peer.local.gateway import (
    DOCKER,
    PROCESS,
    build_images,
    ready_replicas,
    run_localfaas,
    start_gateway,
)
from peer.local.processes import Process, Say, end, has_ended, identify, log_tail, port_for
from peer.messages import Message
from peer.store.retry import Patience, retry
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import (
    LOOPBACK,
    ServerKind,
    find_minio,
    load_or_create_credentials,
    start_server,
    wait_until_ready,
)

log = logging.getLogger(__name__)

FUNCTIONS = ("gradient", "evaluate", "aggregate")
MOST_REPLICAS = 5
"""What OpenFaaS Community Edition allows a function."""

_ANSWERS = Patience(total_seconds=10.0, longest_seconds=0.25)
_LEAST_FREE_BYTES = 32 << 20
_READY = Patience(total_seconds=60.0, first_seconds=0.05, longest_seconds=0.25)


class StoreState(Message, frozen=True):
    """The store that was started here."""

    kind: str
    endpoint: str
    process: Process


class GatewayState(Message, frozen=True):
    """The gateway that was started here."""

    url: str
    process: Process
    runtime: str = PROCESS


class PlatformState(Message, frozen=True):
    """What runs now: `platform.json` in the state directory."""

    store: StoreState | None = None
    gateway: GatewayState | None = None
    companions: dict[str, CompanionState] = {}


@dataclass(frozen=True)
class PlatformOptions:
    """What `peerless up` is told."""

    state_dir: Path
    stack: Path
    gateway_port: int = 8080
    store_port: int = 9000
    store_server: str = "auto"
    replicas: int = 0
    runtime: str | None = None
    """Of the gateway; None for the one that it has, else processes."""

    build_args: tuple[str, ...] = ()
    """For the Dockerfile of the functions' images, as NAME=VALUE."""


class Platform:
    """The platform that belongs to one state directory.

    Args:
        state_dir: made, for this user alone, if it is not there.
    """

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._state_path = state_dir / "platform.json"
        self._store_credentials = state_dir / "store-credentials.json"
        self._started: list[subprocess.Popen[bytes]] = []
        self._gateway_dir = state_dir / "localfaas"

    @property
    def password_file(self) -> Path:
        """The gateway's generated basic-auth password, for user admin."""
        return self._gateway_dir / "basic-auth-password"

    def state(self) -> PlatformState:
        """Return what was started and not ended since; parts that have died are still in it."""
        try:
            return messages.decode(self._state_path.read_bytes(), PlatformState)
        except FileNotFoundError:
            return PlatformState()
        except msgspec.DecodeError as error:
            raise PlatformError(
                f"{self._state_path} is damaged ({error}): end what `pgrep -f {self.state_dir}` finds, "
                "remove the file and run `peerless up`; the data stay"
            ) from error
        except OSError as error:
            raise ConfigurationError(f"{self._state_path} cannot be read: {error.strerror}") from error

    def store_address(self) -> StoreAddress | None:
        """Return the store that was started here, None if there is none."""
        state = self.state().store
        if state is None:
            return None
        credentials = load_or_create_credentials(self._store_credentials)
        return StoreAddress(state.endpoint, credentials.access_key, credentials.secret_key)

    def gateway_address(self) -> GatewayAddress | None:
        """Return the gateway that was started here, None if there is none."""
        state = self.state().gateway
        if state is None:
            return None
        try:
            return GatewayAddress(state.url, password=self.password_file.read_text().strip())
        except OSError as error:
            raise PlatformError(
                f"the gateway's password {self.password_file} cannot be read: {error.strerror}; "
                "`peerless down` and `peerless up` make a new one"
            ) from error

    def up(self, options: PlatformOptions, say: Say) -> PlatformState:
        """Return the state of the running platform, with the functions of `options.stack` deployed and ready.

        What runs already is kept; what has died is started again where it was, on the same data.

        Raises:
            ConfigurationError: the stack file or the state directory cannot be used.
            StoreFull: there is no room for more data; the store runs, so that some can be removed.
            PlatformError: a part does not start; the message has its log's last lines. It is ended; parts
                that did start go on.
        """
        if not options.stack.is_file():
            raise ConfigurationError(
                f"there is no file {options.stack}: run this in a peerless checkout, or give --stack"
            )
        try:
            self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"--state-dir {self.state_dir} cannot be made: {error.strerror}; name another"
            ) from error
        with self._locked():
            options = dataclasses.replace(options, runtime=self._runtime(options.runtime))
            self._run_store(options, say)
            self._run_gateway(options, say)
            self.check_room()
            state = self.state()
            self._deploy(options, state, say)
        return state

    def accompany(self, companion: Companion, say: Say) -> str:
        """Return the address of a companion that runs from now on; it is kept if it ran already.

        Raises:
            PlatformError: it does not start. Nothing of it is left, and store and gateway are as they were.
        """
        with self._locked():
            before = self.state().companions.get(companion.name)
            if before is not None and not has_ended(before.process):
                say(f"{companion.name:<9} {before.url}  (ran already)")
                return before.url
            log_path = self.state_dir / f"{companion.name}.log"
            process, url = start_companion(companion, before, log_path, say)
            with self._ended_on_error(process):
                started = {companion.name: CompanionState(url, identify(process.pid))}
                self._save(replace(self.state(), companions=self.state().companions | started))
                wait_for_companion(companion, process, url, log_path)
        say(f"{companion.name:<9} {url}")
        return url

    def check_room(self) -> None:
        """Return if the store's disk has room for more.

        Raises:
            StoreFull: it has less than 32 MiB; nanio itself would answer every write with an internal error.
        """
        free_bytes = shutil.disk_usage(self.state_dir).free
        if free_bytes < _LEAST_FREE_BYTES:
            raise StoreFull(
                f"{free_bytes >> 20} MiB are free on the disk of the store's data, {self.state_dir}: make "
                "room there (`peerless runs remove RUN`, `peerless data remove NAME`)"
            )

    def down(self, say: Say) -> None:
        """End the companions, the gateway, its replicas and the store. Data, logs and deployments stay."""
        if not self.state_dir.is_dir():
            say("nothing was running")
            return
        with self._locked():
            state = self.state()
            parts = {**state.companions, "gateway": state.gateway, "store": state.store}
            for name, part in parts.items():
                if part is not None and not has_ended(part.process):
                    end(part.process)
                    say(f"{name} ended")
            if not any(parts.values()):
                say("nothing was running")
            self._state_path.unlink(missing_ok=True)
            for process in self._started:
                process.wait()
            self._started.clear()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = (self.state_dir / "lock").open("w")
        except OSError as error:
            raise ConfigurationError(
                f"--state-dir {self.state_dir} cannot be written: {error.strerror}; name another"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PlatformError(
                    f"another `peerless up` or `down` works on {self.state_dir}: wait until it has ended"
                ) from error
            yield

    def _save(self, state: PlatformState) -> None:
        replace_file(self._state_path, messages.encode(state))

    def _runtime(self, wanted: str | None) -> str:
        """Return which runtime the gateway has, or is to have.

        Raises:
            PlatformError: it runs with another one than is wanted.
        """
        before = self.state().gateway
        if before is None:
            return wanted or PROCESS
        if wanted not in (None, before.runtime) and not has_ended(before.process):
            raise PlatformError(
                f"the gateway at {before.url} has the {before.runtime} runtime: `peerless down` first, then "
                f"`peerless up --runtime {wanted}`"
            )
        return wanted or before.runtime

    def _run_store(self, options: PlatformOptions, say: Say) -> None:
        """Start the store unless it runs; it is recorded before it answers, and ended if it never does."""
        before = self.state().store
        host = bridge_address() if options.runtime == DOCKER else LOOPBACK
        if before is not None and not has_ended(before.process):
            if not before.endpoint.startswith(f"http://{host}:"):
                raise PlatformError(
                    f"the store runs at {before.endpoint}, not at {host}, where functions of the "
                    f"{options.runtime} runtime reach it: `peerless down` first"
                )
            say(f"store     {before.endpoint}  ({before.kind}, ran already)")
            return
        data_dir = self.state_dir / "store"
        kind = ServerKind(before.kind) if before else _store_kind(options.store_server, data_dir)
        port = port_for("store", options.store_port, before.endpoint if before else None, say, host)
        credentials = load_or_create_credentials(self._store_credentials)
        log_path = self.state_dir / "store.log"
        process = start_server(kind, data_dir, port, credentials, log_path, host)
        endpoint = f"http://{host}:{port}"
        with self._ended_on_error(process):
            started = StoreState(str(kind), endpoint, identify(process.pid))
            self._save(replace(self.state(), store=started))
            store = Store(StoreAddress(endpoint, credentials.access_key, credentials.secret_key))
            wait_until_ready(process, store, log_path)
            store.ensure_bucket()
        say(f"store     {endpoint}  ({kind})")

    def _run_gateway(self, options: PlatformOptions, say: Say) -> None:
        """Start the gateway unless it runs; as for the store."""
        before = self.state().gateway
        if before is not None and not has_ended(before.process):
            say(f"gateway   {before.url}  (ran already)")
            return
        port = port_for("gateway", options.gateway_port, before.url if before else None, say)
        log_path = self.state_dir / "gateway.log"
        process = start_gateway(port, self._gateway_dir, log_path, options.runtime or PROCESS)
        url = f"http://{LOOPBACK}:{port}"

        def answers() -> None:
            if process.poll() is not None:
                raise PlatformError(
                    f"the gateway ended with status {process.returncode}: {log_tail(log_path)}"
                )
            Gateway(GatewayAddress(url)).check()

        with self._ended_on_error(process):
            started = GatewayState(url, identify(process.pid), options.runtime or PROCESS)
            self._save(replace(self.state(), gateway=started))
            try:
                retry(answers, _READY)
            except GatewayUnreachable as error:
                raise PlatformError(f"the gateway at {url} does not answer: {log_tail(log_path)}") from error
        say(f"gateway   {url}\n          user admin, password in {self.password_file}")

    @contextmanager
    def _ended_on_error(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Take charge of a new process, and end it if what follows fails or is interrupted."""
        self._started.append(process)
        try:
            yield
        except BaseException:
            process.kill()
            process.wait()
            raise

    def _deploy(self, options: PlatformOptions, state: PlatformState, say: Say) -> None:
        address = self.gateway_address()
        if state.store is None or address is None:
            raise PlatformError(f"{self._state_path} was changed meanwhile: run `peerless up` again")
        environment = {"PEERLESS_STORE_ORIGINS": state.store.endpoint} | os.environ
        stack = ["-f", str(options.stack.resolve())]
        url = ["--gateway", address.url, "--password-file", str(self.password_file)]
        gateway = Gateway(address)
        try:
            retry(gateway.check, _ANSWERS)
            self._build([*stack, "--state-dir", str(self._gateway_dir)], environment, options, say)
            run_localfaas(["deploy", *stack, *url], environment)
            gateway.scale("gradient", options.replicas or min(os.cpu_count() or 1, MOST_REPLICAS))
            for function in FUNCTIONS:
                replicas = retry(partial(ready_replicas, gateway, function), _READY)
                say(f"function  {function}  ({replicas} {'replica' if replicas == 1 else 'replicas'})")
        except GatewayUnreachable as error:
            raise PlatformError(
                f"the gateway at {address.url} runs but cannot be used ({error}): its log is "
                f"{self.state_dir / 'gateway.log'}; `peerless down` and `peerless up` start it anew"
            ) from error

    def _build(
        self, arguments: list[str], environment: dict[str, str], options: PlatformOptions, say: Say
    ) -> None:
        if options.runtime != DOCKER:
            run_localfaas(["build", *arguments], environment)
            return
        log_path = self.state_dir / "build.log"
        say(f"images    built by Docker, which takes minutes the first time; its log is {log_path}")
        build_args = [f"--build-arg={pair}" for pair in options.build_args]
        build_images([*arguments, *build_args], environment, log_path)


def _store_kind(wanted: str, data_dir: Path) -> ServerKind:
    """Return which server to start; `auto` takes the one whose data are here, so that none disappear."""
    if wanted != "auto":
        return ServerKind(wanted)
    used = [kind for kind in ServerKind if (data_dir / kind).is_dir()]
    if len(used) == 1:
        return used[0]
    return ServerKind.MINIO if find_minio() else ServerKind.NANIO
