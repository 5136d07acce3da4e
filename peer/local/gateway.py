"""The gateway on this machine: started as a process, spoken to by its command and its REST API."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from peer.errors import PlatformError
from peer.gateway import Gateway
from peer.local.processes import log_tail
from peer.store.servers import LOOPBACK

PROCESS, DOCKER = RUNTIMES = ("process", "docker")


class NotReady(PlatformError):
    """A function has not all its replicas yet."""

    retryable = True


def start_gateway(port: int, directory: Path, log_path: Path, runtime: str) -> subprocess.Popen[bytes]:
    """Start a gateway that outlives this process; it may not answer yet.

    Args:
        port: on loopback; must be free.
        directory: its state directory.
        log_path: what it writes is appended.
        runtime: one of RUNTIMES.
    """
    arguments = ["serve", "--host", LOOPBACK, "--port", str(port), "--state-dir", str(directory)]
    with log_path.open("ab") as log_file:
        return subprocess.Popen(
            _command([*arguments, "--runtime", runtime]),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_localfaas(arguments: list[str], environment: Mapping[str, str]) -> None:
    """Run a `localfaas` command to its end.

    Raises:
        PlatformError: it failed; with what it said.
    """
    done = subprocess.run(_command(arguments), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().removeprefix("localfaas: ")
        raise PlatformError(f"`localfaas {arguments[0]}` failed: {said}")


def build_images(arguments: list[str], environment: Mapping[str, str], log_path: Path) -> None:
    """Leave the images of a stack file on this machine; their functions find the torch that peers have.

    Args:
        arguments: of `localfaas build`.
        environment: what the stack file is filled in from.
        log_path: replaced by what Docker says meanwhile.

    Raises:
        PlatformError: a step failed; with the log's last lines.
    """
    from torch import __version__ as torch_version

    # First, so that what the arguments say of it counts.
    torch = f"--build-arg=TORCH_VERSION={torch_version.partition('+')[0]}"
    command = _command(["build", "--runtime", DOCKER, torch, *arguments])
    with log_path.open("wb") as log_file:
        done = subprocess.run(
            command, env=environment, stdout=log_file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise PlatformError(f"`localfaas build --runtime docker` failed: {log_tail(log_path)}")


def ready_replicas(gateway: Gateway, function: str) -> int:
    """Return how many replicas a function has, once all of them are available.

    Raises:
        NotReady: they are not; another try may find them.
    """
    description = gateway.describe(function)
    wanted, available = int(description.get("replicas", 0)), int(description.get("availableReplicas", 0))
    if not 0 < wanted <= available:
        limit = (description.get("limits") or {}).get("memory", "none")
        reason = (description.get("annotations") or {}).get("localfaas.last-error", "")
        raise NotReady(
            f"function {function} has {available} of {wanted} replicas: gateway.log in the state directory "
            f"says why; raise limits.memory in the stack file if {limit} is too little to start with"
            + (f" ({reason})" if reason else "")
        )
    return available


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "localfaas", *arguments]
