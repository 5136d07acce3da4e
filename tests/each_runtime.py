"""What tests of every runtime ask of a gateway."""

from pathlib import Path
from typing import Any

from docker_images import containers, control_groups, networks

from localfaas.config import StatePaths


def wait_available(gateway: Any, replicas: int, function: str = "fn") -> None:
    """Return once a function has so many replicas that answer."""
    gateway.until(
        lambda: gateway.status(function)["availableReplicas"] == replicas,
        f"{replicas} replicas of {function}",
    )


def is_nothing_left(state_dir: Path, runtime: str) -> bool:
    """Tell whether a gateway's replicas have left no container, network, socket and control group."""
    identity = StatePaths(state_dir).identity
    if runtime == "docker":
        return not containers(identity) and not networks(identity)
    return not list(state_dir.glob("run/*.sock")) and not control_groups(f"localfaas-{identity}/")
