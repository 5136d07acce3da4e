"""What the gateway is told at its start, and where it keeps its files."""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localfaas.errors import ConfigurationError

Enforcement = Literal["auto", "cgroup", "rlimit"]
RuntimeName = Literal["process", "docker"]
PullPolicy = Literal["always", "missing", "never"]

# sun_path holds 108 bytes with its final NUL; a socket's own name takes 21 of them.
_MAX_SOCKET_DIRECTORY_BYTES = 86


@dataclass(frozen=True)
class GatewayConfig:
    """Settings of one gateway; every one is an option of `localfaas serve`."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    is_port_fallback: bool = False
    is_behind_gateway: bool = False
    """An OpenFaaS gateway stands in front: `/system/info` is a provider's, not a gateway's."""
    runtime: RuntimeName = "process"
    pull_policy: PullPolicy = "missing"
    """When the Docker runtime pulls an image; a local one serves where a pull fails."""
    memory_enforcement: Enforcement = "auto"
    """Of the process runtime; Docker's limits are always control groups."""
    max_waiting: int = 1_000
    """Requests that may wait for one function; the next is answered 429."""
    grace_seconds: float = 10.0
    """How long running requests may go on after SIGTERM, or after their function was removed."""
    default_timeout_seconds: float = 60.0
    """`exec_timeout` of a function that sets none, as in OpenFaaS' gateway."""
    start_timeout_seconds: float = 120.0
    """A replica that has answered nothing after this is killed and started anew."""
    max_async_waiting: int = 10_000
    """Asynchronous calls that may wait, of all functions; the next is answered 429."""
    max_async_body_bytes: int = 4 << 20
    """The longest body of an asynchronous call; a longer one is answered 413."""
    client_patience_seconds: float = 30.0
    """A client that keeps the gateway waiting longer, for its request or to take its reply, is let go."""


@dataclass(frozen=True)
class StatePaths:
    """Every path inside a state directory."""

    root: Path

    @property
    def functions(self) -> Path:
        """One JSON file a deployed function."""
        return self.root / "functions"

    @property
    def namespaces(self) -> Path:
        """One JSON file a namespace, but for the default one."""
        return self.root / "namespaces"

    @property
    def images(self) -> Path:
        """One JSON file an image that `localfaas build` has made."""
        return self.root / "images"

    @property
    def build(self) -> Path:
        """One folder a built function, laid out as faas-cli does."""
        return self.root / "build"

    @property
    def logs(self) -> Path:
        """What functions wrote, one file a function and one older."""
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        """One folder a namespace, in it one file a secret."""
        return self.root / "secrets"

    @property
    def mounts(self) -> Path:
        """One folder a function that names secrets, in it those that its replicas are given."""
        return self.root / "mounts"

    @property
    def calls(self) -> Path:
        """The queue of asynchronous calls, an SQLite database."""
        return self.root / "calls.sqlite"

    @property
    def user(self) -> Path:
        """The name that `/system/*` asks for."""
        return self.root / "basic-auth-user"

    @property
    def password(self) -> Path:
        """The password that `/system/*` asks for."""
        return self.root / "basic-auth-password"

    @property
    def gateway(self) -> Path:
        """URL, process id and version of the gateway that runs now."""
        return self.root / "gateway.json"

    @property
    def control_groups(self) -> Path:
        """The directories of the control groups that its gateways have made."""
        return self.root / "control-groups"

    @property
    def lock(self) -> Path:
        """Locked by the gateway that runs on this state directory."""
        return self.root / "lock"

    @property
    def identity(self) -> str:
        """Twelve hex digits that name this state directory in cgroup and socket paths."""
        return hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:12]

    def create(self) -> None:
        """Leave the state directory and its folders in place, readable by their owner alone.

        Raises:
            ConfigurationError: one cannot be made, or belongs to somebody else.
        """
        for directory in (
            self.root,
            self.functions,
            self.namespaces,
            self.images,
            self.build,
            self.logs,
            self.secrets,
            self.mounts,
        ):
            make_private_directory(directory)

    def create_socket_directory(self) -> Path:
        """Return a private directory, made if need be, whose path leaves room for a socket's name.

        Raises:
            ConfigurationError: none can be made.
        """
        directory = self.root.resolve() / "run"
        if len(os.fsencode(directory)) > _MAX_SOCKET_DIRECTORY_BYTES:
            base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
            directory = Path(base) / f"localfaas-{os.getuid()}-{self.identity}"
        make_private_directory(directory)
        return directory


def make_private_directory(path: Path) -> None:
    """Leave `path` a directory of mode 0700 that belongs to this user.

    Raises:
        ConfigurationError: it cannot be made, is something else, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            status = path.stat()
        if status.st_uid != os.getuid():
            raise ConfigurationError(f"{path} belongs to user {status.st_uid}; choose another --state-dir")
        path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot make the directory {path}: {error.strerror or error}") from error


def write_atomically(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Replace `path` by a file of that content and mode; a reader sees the old or the new one, whole.

    Raises:
        OSError: the old file is untouched; it names `path`.
    """
    try:
        _replace(path, content.encode() if isinstance(content, str) else content, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_half_written(directory: Path) -> None:
    """Remove what a kill within `write_atomically` has left in a directory that nobody writes to now."""
    for path in directory.glob(".*"):
        path.unlink()


def _replace(path: Path, content: bytes, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
