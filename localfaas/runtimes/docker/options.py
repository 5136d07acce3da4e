"""What a deployment is as a container: pure functions from the one to the other."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from docker.types import LogConfig

from localfaas.deployments import NAME_LABEL, Deployment
from localfaas.memory.cgroup import SWAP_MARGIN_BYTES
from localfaas.process_limit import MAX_PROCESSES
from localfaas.quantities import parse_cpus, parse_memory_bytes
from localfaas.runtimes.environment import common_environment

LEAST_MEMORY_BYTES = 6 << 20
"""The Engine refuses a limit below."""

STATE_LABEL = "localfaas.state"
REPLICA_LABEL = "localfaas.replica"
DEPLOYMENT_LABEL = "localfaas.deployment"
FUNCTION_LABEL = "localfaas.function"
HOST_NAME = "host.docker.internal"
"""What this machine is called inside a container."""

_SECRETS_PATH = "/var/openfaas/secrets"
_PORT = 8080
_LOOPBACK = "127.0.0.1"
# Raised when the same deployment becomes another container.
_FORMAT = 2
# What the Engine grants by default and a function has no use for. Those that an image needs to start as root
# and go on as somebody else stay.
_DROPPED_CAPABILITIES = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP", "SETPCAP", "SYS_CHROOT"]
# Of its memory limit, as the kernel gives a file system in memory half of the machine's.
_TMP_SHARE_OF_MEMORY = 0.5
_LOG_OPTIONS = {"max-size": "8m", "max-file": "2"}
_SHARES_A_CPU = 1_024
_LEAST_SHARES = 2
_NANO = 10**9
_LEAST_CPUS = 0.01
_MAX_HOSTNAME = 63


@dataclass(frozen=True)
class EngineFacts:
    """What the Engine says of where containers run."""

    num_cpus: int
    """Cores that containers share."""

    cgroup_version: int
    """Of the control groups that hold containers: 1 or 2."""


def deployment_digest(deployment: Deployment, image_id: str) -> str:
    """Return what tells containers of this deployment and image from all others."""
    content = json.dumps([_FORMAT, asdict(deployment), image_id], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def memory_limit_bytes(deployment: Deployment) -> int | None:
    """Return the limit that a container gets: at least what the Engine takes."""
    limit_bytes = deployment.memory_limit_bytes
    return None if limit_bytes is None else max(limit_bytes, LEAST_MEMORY_BYTES)


def container_name(replica: str) -> str:
    """Return what the container of a replica is called."""
    return f"localfaas-{replica}"


def container_options(deployment: Deployment, image_id: str, replica: str, identity: str) -> dict[str, Any]:
    """Return the arguments of `create_container` for one replica.

    The command is the image's own; `fprocess` is for the watchdog in it, by the environment.
    """
    fprocess = {"fprocess": deployment.env_process} if deployment.env_process else {}
    own_labels = {
        NAME_LABEL: deployment.service,
        STATE_LABEL: identity,
        REPLICA_LABEL: replica,
        FUNCTION_LABEL: deployment.function.qualified,
        DEPLOYMENT_LABEL: deployment_digest(deployment, image_id),
    }
    return {
        "image": image_id,
        "hostname": replica[-_MAX_HOSTNAME:].strip("-."),
        "environment": {**common_environment(deployment, replica), **fprocess, **deployment.env_vars},
        "labels": {**deployment.annotations, **deployment.labels, **own_labels},
        "ports": [_PORT],
        # The pool asks each replica itself whether it is ready.
        "healthcheck": {"test": ["NONE"]},
    }


def host_options(
    deployment: Deployment, network: str, secrets_directory: str | None, facts: EngineFacts
) -> dict[str, Any]:
    """Return the arguments of `create_host_config` for the replicas of a deployment."""
    options: dict[str, Any] = {
        "network_mode": network,
        "port_bindings": {_PORT: (_LOOPBACK, None)},
        "extra_hosts": {HOST_NAME: "host-gateway"},
        "init": True,
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": _DROPPED_CAPABILITIES,
        "pids_limit": MAX_PROCESSES,
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG_OPTIONS),
        **_memory_options(deployment, facts.cgroup_version),
        **_cpu_options(deployment.limits, deployment.requests, facts.num_cpus),
    }
    if deployment.read_only_root_filesystem:
        options |= {"read_only": True, "tmpfs": {"/tmp": _tmp_options(deployment)}}
    if secrets_directory is not None:
        options["binds"] = {secrets_directory: {"bind": _SECRETS_PATH, "mode": "ro"}}
    return options


def _tmp_options(deployment: Deployment) -> str:
    """Return how `/tmp` is mounted: in memory that the container is charged for, and in no more than half."""
    options = "rw,exec,nosuid,nodev,mode=1777"
    limit_bytes = memory_limit_bytes(deployment)
    return options if limit_bytes is None else f"{options},size={round(limit_bytes * _TMP_SHARE_OF_MEMORY)}"


def _memory_options(deployment: Deployment, cgroup_version: int) -> dict[str, int]:
    limit_bytes = memory_limit_bytes(deployment)
    options: dict[str, int] = {}
    if limit_bytes is not None:
        # With both the same there is no swap, and under version 1 no count of how often the limit is met.
        swap_bytes = SWAP_MARGIN_BYTES if cgroup_version == 1 else 0
        options |= {"mem_limit": limit_bytes, "memswap_limit": limit_bytes + swap_bytes}
    if request := deployment.requests.get("memory"):
        request_bytes = max(parse_memory_bytes(request), LEAST_MEMORY_BYTES)
        options["mem_reservation"] = min(request_bytes, limit_bytes or request_bytes)
    return options


def _cpu_options(limits: Mapping[str, str], requests: Mapping[str, str], num_cpus: int) -> dict[str, int]:
    """Return a hard limit, of at most all cores, and the share where cores are scarce."""
    options = {}
    if limit := limits.get("cpu"):
        options["nano_cpus"] = round(_NANO * min(max(parse_cpus(limit), _LEAST_CPUS), num_cpus))
    if request := requests.get("cpu"):
        options["cpu_shares"] = max(_LEAST_SHARES, round(_SHARES_A_CPU * parse_cpus(request)))
    return options
