"""The platform on one machine: an S3 store and an OpenFaaS-compatible gateway, as background processes.

`peerless up` starts what is not running, deploys `stack.yml` and records where everything is; `peerless down`
ends it. The gateway is started as a process and spoken to over its REST API: nothing here imports it.
"""

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from peer import messages
from peer.config import GatewayAddress
from peer.errors import GatewayUnreachable, PlatformError
from peer.gateway import Gateway
from peer.messages import Message
from peer.processes import Process, end, has_ended, identify
from peer.store.retry import Patience, retry
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import (
    LOOPBACK,
    ServerKind,
    find_minio,
    free_port,
    is_port_free,
    load_or_create_credentials,
    start_server,
    wait_until_ready,
)

log = logging.getLogger(__name__)

Say = Callable[[str], None]

FUNCTIONS = ("gradient", "evaluate")
MOST_REPLICAS = 5
"""What OpenFaaS Community Edition allows a function."""

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


class PlatformState(Message, frozen=True):
    """What runs now: `platform.json` in the state directory."""

    store: StoreState | None = None
    gateway: GatewayState | None = None


@dataclass(frozen=True)
class PlatformOptions:
    """What `peerless up` is told."""

    state_dir: Path
    stack: Path
    gateway_port: int = 8080
    store_port: int = 9000
    store_server: str = "auto"
    replicas: int = 0


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
                f"{self._state_path} is not readable ({error}): remove it and run `peerless up` again"
            ) from error

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
        return GatewayAddress(state.url, password=self.password_file.read_text().strip())

    def up(self, options: PlatformOptions, say: Say) -> PlatformState:
        """Return the state of the running platform, with the functions of `options.stack` deployed and ready.

        What runs already is kept; what has died is started again where it was, on the same data.

        Raises:
            PlatformError: a part does not start; the message has its log's last lines. Parts that did start
                go on.
        """
        if not options.stack.is_file():
            raise PlatformError(
                f"there is no {options.stack}: run this in a peerless checkout, or give --stack"
            )
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            state = self.state()
            if state.store is None or has_ended(state.store.process):
                state = self._save(store=self._start_store(options, state.store, say), gateway=state.gateway)
            if state.gateway is None or has_ended(state.gateway.process):
                state = self._save(
                    store=state.store, gateway=self._start_gateway(options, state.gateway, say)
                )
            self._deploy(options, state, say)
        return state

    def down(self, say: Say) -> None:
        """End the gateway, its replicas and the store. Data, logs and deployments stay where they are."""
        if not self.state_dir.is_dir():
            say("nothing was running")
            return
        with self._locked():
            state = self.state()
            parts = {"gateway": state.gateway, "store": state.store}
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
        with (self.state_dir / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PlatformError(
                    f"another `peerless up` or `down` works on {self.state_dir}: wait until it has ended"
                ) from error
            yield

    def _save(self, store: StoreState | None, gateway: GatewayState | None) -> PlatformState:
        state = PlatformState(store, gateway)
        temporary = self._state_path.with_suffix(".tmp")
        temporary.write_bytes(messages.encode(state))
        temporary.replace(self._state_path)
        return state

    def _start_store(self, options: PlatformOptions, before: StoreState | None, say: Say) -> StoreState:
        kind = _store_kind(options.store_server)
        port = _port_of(before.endpoint) if before else options.store_port
        port = _free_or_another(port, "store", say)
        credentials = load_or_create_credentials(self._store_credentials)
        log_path = self.state_dir / "store.log"
        process = start_server(kind, self.state_dir / "store", port, credentials, log_path)
        self._started.append(process)
        endpoint = f"http://{LOOPBACK}:{port}"
        store = Store(StoreAddress(endpoint, credentials.access_key, credentials.secret_key))
        wait_until_ready(process, store, log_path)
        store.ensure_bucket()
        say(f"store     {endpoint}  ({kind})")
        return StoreState(str(kind), endpoint, identify(process.pid))

    def _start_gateway(self, options: PlatformOptions, before: GatewayState | None, say: Say) -> GatewayState:
        port = _free_or_another(_port_of(before.url) if before else options.gateway_port, "gateway", say)
        log_path = self.state_dir / "gateway.log"
        arguments = ["serve", "--host", LOOPBACK, "--port", str(port), "--state-dir", str(self._gateway_dir)]
        with log_path.open("ab") as log_file:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "localfaas", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        url = f"http://{LOOPBACK}:{port}"

        def answers() -> None:
            if process.poll() is not None:
                raise PlatformError(f"the gateway ended with status {process.returncode}: {_tail(log_path)}")
            Gateway(GatewayAddress(url)).check()

        try:
            retry(answers, _READY)
        except GatewayUnreachable as error:
            raise PlatformError(f"the gateway at {url} does not answer: {_tail(log_path)}") from error
        say(f"gateway   {url}  (user admin, password in {self.password_file})")
        return GatewayState(url, identify(process.pid))

    def _deploy(self, options: PlatformOptions, state: PlatformState, say: Say) -> None:
        assert state.gateway is not None and state.store is not None
        environment = {"PEERLESS_STORE_ORIGINS": state.store.endpoint} | os.environ
        stack = ["-f", str(options.stack.resolve())]
        url = ["--gateway", state.gateway.url, "--password-file", str(self.password_file)]
        _localfaas(["build", *stack, "--state-dir", str(self._gateway_dir)], environment)
        _localfaas(["deploy", *stack, *url], environment)
        address = self.gateway_address()
        assert address is not None
        gateway = Gateway(address)
        gateway.scale("gradient", options.replicas or min(os.cpu_count() or 1, MOST_REPLICAS))
        for function in FUNCTIONS:
            replicas = retry(lambda name=function: _ready_replicas(gateway, name), _READY)  # type: ignore[misc]
            say(f"function  {function}  ({replicas} {'replica' if replicas == 1 else 'replicas'})")


def _ready_replicas(gateway: Gateway, function: str) -> int:
    """Return how many replicas a function has, once all of them are available."""
    description = gateway.describe(function)
    wanted, available = int(description.get("replicas", 0)), int(description.get("availableReplicas", 0))
    if not 0 < wanted <= available:
        raise GatewayUnreachable(f"function {function} has {available} of {wanted} replicas; see its logs")
    return available


def _localfaas(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "localfaas", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PlatformError(f"`localfaas {arguments[0]}` failed: {(done.stderr or done.stdout).strip()}")


def _store_kind(wanted: str) -> ServerKind:
    if wanted == "auto":
        return ServerKind.MINIO if find_minio() else ServerKind.NANIO
    return ServerKind(wanted)


def _free_or_another(port: int, what: str, say: Say) -> int:
    if is_port_free(LOOPBACK, port):
        return port
    another = free_port(after=port)
    say(f"port {port} is in use: the {what} takes {another}")
    return another


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-3:]) + f" (see {path})"
