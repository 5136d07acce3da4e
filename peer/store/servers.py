"""Starts an object store on this machine: MinIO if there is one, else nanio from the package index.

Both listen at one address, loopback unless told otherwise, with credentials from the environment, never from
the command line.
docs/decisions/store-servers.md says what they give and where they differ.
"""

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from peer.errors import ConfigurationError, PlatformError, StoreUnreachable
from peer.store.nanio_data import sweep
from peer.store.retry import Patience, poll
from peer.store.s3 import Store

LOOPBACK = "127.0.0.1"

_LOG_TAIL_BYTES = 2000
_OWN_SETTINGS = ("MINIO_", "NANIO_", "UVICORN_")


class ServerKind(StrEnum):
    """The object stores that can be started here."""

    MINIO = "minio"
    NANIO = "nanio"


@dataclass(frozen=True)
class Credentials:
    """The one user of a local store."""

    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True)
class ServerCommand:
    """How to start a server: its command line, and what it needs in the environment besides."""

    arguments: list[str]
    environment: dict[str, str] = field(repr=False)


def find_minio(environment: Mapping[str, str] | None = None) -> Path | None:
    """Return the `minio` program: PEERLESS_MINIO, then PATH, then where `scripts/install-minio.sh` puts it.

    Raises:
        ConfigurationError: PEERLESS_MINIO names something that cannot be run.
    """
    environment = os.environ if environment is None else environment
    if named := environment.get("PEERLESS_MINIO"):
        if shutil.which(named) is None:
            raise ConfigurationError(f"PEERLESS_MINIO={named} is no program: correct it, or unset it")
        return Path(named)
    data_home = environment.get("XDG_DATA_HOME") or f"{environment.get('HOME') or '~'}/.local/share"
    installed = Path(data_home).expanduser() / "peerless" / "bin"
    found = shutil.which("minio", path=f"{environment.get('PATH', '')}{os.pathsep}{installed}")
    return Path(found) if found else None


def free_port(host: str = LOOPBACK, after: int | None = None) -> int:
    """Return a port that nothing listens on now: the next one above `after`, else any from 20,000 to 31,999.

    Not one that the operating system chooses: those are also given to outgoing connections, so a client
    that tries again while the server restarts can end up connected to itself, and hold the server's port.

    Raises:
        PlatformError: none of the thousand ports looked at is free.
    """
    first = random.randrange(20_000, 31_000) if after is None else min(after + 1, 64_000)
    for port in range(first, first + 1_000):
        if is_port_free(host, port):
            return port
    raise PlatformError(f"no port from {first} to {first + 999} is free on {host}: end something there")


def is_port_free(host: str, port: int) -> bool:
    """Return whether a server could listen on this port now."""
    with socket.socket() as listener:
        # as the servers do: connections of an earlier server that linger do not count
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
        return True


def load_or_create_credentials(path: Path) -> Credentials:
    """Return the credentials in `path`; generated and written for this user alone (0600) if it is not there.

    Raises:
        PlatformError: the file is there and holds something else.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            stored = json.loads(path.read_text())
            return Credentials(str(stored["access_key"]), str(stored["secret_key"]))
        except (ValueError, KeyError, TypeError) as error:
            raise PlatformError(f"{path} holds no store credentials: remove it") from error
    credentials = Credentials(f"peerless-{secrets.token_hex(4)}", secrets.token_urlsafe(30))
    with os.fdopen(descriptor, "w") as file:
        json.dump({"access_key": credentials.access_key, "secret_key": credentials.secret_key}, file)
    return credentials


def server_command(
    kind: ServerKind, data_dir: Path, port: int, credentials: Credentials, host: str = LOOPBACK
) -> ServerCommand:
    """Return how to start a server that keeps its data in a directory of its own under `data_dir`.

    Raises:
        PlatformError: MinIO is asked for and not installed.
    """
    own_dir = data_dir / kind
    if kind is ServerKind.NANIO:
        # -P: a directory of this name where we are started must not be imported instead
        program = [sys.executable, "-P", "-m", "nanio", "serve", "--workers", "1", "--no-access-log"]
        program += ["--host", host, "--port", str(port), "--log-level", "warning"]
        return ServerCommand(
            [*program, "--data-dir", str(own_dir)],
            {"NANIO_ACCESS_KEY": credentials.access_key, "NANIO_SECRET_KEY": credentials.secret_key},
        )
    minio = find_minio()
    if minio is None:
        raise PlatformError("no `minio` program: run scripts/install-minio.sh, or use the store `nanio`")
    # its own certificate directory: those in the user's ~/.minio/certs would make it speak https
    options = ["--certs-dir", str(data_dir / "minio-certs"), "--console-address", f"{LOOPBACK}:0"]
    environment = {
        "HOME": os.environ.get("HOME") or str(data_dir),
        "MINIO_ROOT_USER": credentials.access_key,
        "MINIO_ROOT_PASSWORD": credentials.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_PROMETHEUS_AUTH_TYPE": "public",
    }
    program = [str(minio), "server", "--quiet", "--address", f"{host}:{port}"]
    return ServerCommand([*program, *options, str(own_dir)], environment)


def start_server(
    kind: ServerKind,
    data_dir: Path,
    port: int,
    credentials: Credentials,
    log_path: Path,
    host: str = LOOPBACK,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own; it may not answer yet (`wait_until_ready`).

    What a kill has left half-written in nanio's data is healed first: no other nanio may run on `data_dir`.

    Args:
        kind: which server.
        data_dir: made if it is not there; each kind keeps its data in a directory of its own in it.
        port: of `host`; must be free.
        credentials: of the one user.
        log_path: the server's output is appended to it.
        host: an address of this machine; who reaches it needs the credentials, but may try.

    Raises:
        PlatformError: the program is missing or does not start.
    """
    command = server_command(kind, data_dir, port, credentials, host)
    own_dir = data_dir / kind
    own_dir.mkdir(parents=True, exist_ok=True)
    if kind is ServerKind.NANIO:
        sweep(own_dir)
    else:
        (data_dir / "minio-certs").mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
    try:
        with log_path.open("ab") as log:
            return subprocess.Popen(
                command.arguments,
                env={**inherited, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise PlatformError(f"{command.arguments[0]} does not start: {error}") from error


def wait_until_ready(
    process: subprocess.Popen[bytes], store: Store, log_path: Path, patience: Patience | None = None
) -> None:
    """Return once the server in `process` answers to the credentials of `store`.

    Raises:
        PlatformError: it ended, or did not answer within `patience` (30 s); the message has its log's end.
        StoreDenied: another store with other credentials listens on this port.
    """
    patience = patience or Patience(total_seconds=30.0, longest_seconds=0.1)

    def probe() -> bool:
        if process.poll() is not None:
            ended = f"the store ended with status {process.returncode} as it started"
            raise PlatformError(f"{ended}: {_tail(log_path)} (see {log_path})")
        store.check()
        return True

    try:
        poll(probe, patience)
    except StoreUnreachable as error:
        raise PlatformError(
            f"the store at {store.address.endpoint} did not answer within {patience.total_seconds:.0f} s: "
            f"{_tail(log_path)} (see {log_path})"
        ) from error


def _tail(log_path: Path) -> str:
    lines = log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-3:]) or "its log is empty"
