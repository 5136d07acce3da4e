"""What a deployment says, checked; and the file that keeps it."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from localfaas.config import remove_half_written, write_atomically
from localfaas.errors import BadRequest, ConfigurationError
from localfaas.namespaces import DEFAULT_NAMESPACE, FunctionName, is_dns_label
from localfaas.quantities import parse_cpus, parse_memory_bytes
from localfaas.scaling import ScalingOptions, parse_scaling_options
from localfaas.watchdog_options import WatchdogOptions, parse_watchdog_options

# Keys that only a status carries: a client may GET, change and PUT the whole specification.
STATUS_PREFIX = "localfaas."
NAME_LABEL = "faas_function"

_VARIABLE = re.compile(r"[^=\0]+")


def check_function_name(name: object) -> str:
    """Return `name` if it can name a function: a DNS label, as in OpenFaaS.

    Raises:
        BadRequest: it cannot.
    """
    if not is_dns_label(name):
        raise BadRequest(
            f"function name {name!r:.100} has to be 1 to 63 of a-z, 0-9 and -, with no - at either end"
        )
    return name


@dataclass(frozen=True)
class Deployment:
    """One function as deployed; the fields of OpenFaaS' FunctionDeployment."""

    service: str
    image: str
    env_process: str = ""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    read_only_root_filesystem: bool = False
    namespace: str = DEFAULT_NAMESPACE

    @property
    def function(self) -> FunctionName:
        """What the function is called."""
        return FunctionName(self.service, self.namespace)

    @property
    def memory_limit_bytes(self) -> int | None:
        """The most memory a replica may use, or None for no limit."""
        limit = self.limits.get("memory")
        return parse_memory_bytes(limit) if limit else None

    @cached_property
    def watchdog(self) -> WatchdogOptions:
        """What the environment says to the watchdog in front of the function."""
        return parse_watchdog_options(self.env_vars)

    @property
    def cpu_limit(self) -> float:
        """The most CPUs that one replica may use, 0 for no limit."""
        limit = self.limits.get("cpu")
        return parse_cpus(limit) if limit else 0.0

    @property
    def cpus(self) -> float:
        """CPUs that one replica may use, or asks for; 0 where the deployment does not say."""
        text = self.limits.get("cpu") or self.requests.get("cpu")
        return parse_cpus(text) if text else 0.0

    @cached_property
    def scaling(self) -> ScalingOptions:
        """What the labels say of the number of replicas."""
        return parse_scaling_options(self.labels)

    @property
    def min_replicas(self) -> int:
        """Replicas that a deployment starts with."""
        return self.scaling.min_replicas

    @property
    def max_replicas(self) -> int:
        """Replicas above which scaling does not go."""
        return self.scaling.max_replicas


def parse_deployment(body: object) -> Deployment:
    """Return the deployment that a POST or PUT to `/system/functions` asks for.

    Whether its namespace exists is not looked at.

    Raises:
        BadRequest: a field is missing, of the wrong type or impossible; the message names it.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body has to be a JSON object, as `faas-cli deploy` sends it")
    namespace = body.get("namespace")
    if namespace in (None, ""):
        namespace = DEFAULT_NAMESPACE
    if not is_dns_label(namespace):
        raise BadRequest(f"namespace {namespace!r} cannot be one; create it by `faas-cli namespace create`")
    image = body.get("image")
    if not _is_text(image) or not image:
        raise BadRequest("image is missing; it names what `localfaas build` has built")
    env_process = body.get("envProcess")
    if env_process is None:
        env_process = ""
    if not _is_command(env_process):
        raise BadRequest("envProcess has to be a command line, with quotes that are closed")
    is_read_only = body.get("readOnlyRootFilesystem")
    if not isinstance(is_read_only, bool | None):
        raise BadRequest("readOnlyRootFilesystem has to be true or false")
    labels = _texts(body, "labels")
    labels.pop(NAME_LABEL, None)
    annotations = _texts(body, "annotations")
    deployment = Deployment(
        service=check_function_name(body.get("service")),
        image=image,
        env_process=env_process,
        env_vars=_texts(body, "envVars"),
        constraints=_list(body, "constraints"),
        secrets=_list(body, "secrets"),
        labels=labels,
        annotations={key: value for key, value in annotations.items() if not key.startswith(STATUS_PREFIX)},
        limits=_texts(body, "limits"),
        requests=_texts(body, "requests"),
        read_only_root_filesystem=bool(is_read_only),
        namespace=namespace,
    )
    _check_values(deployment)
    return deployment


def _check_values(deployment: Deployment) -> None:
    for name, value in deployment.env_vars.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise BadRequest(f"environment variable {name!r} cannot be set; use no `=` in names and no NUL")
    for resources in (deployment.limits, deployment.requests):
        if memory := resources.get("memory"):
            parse_memory_bytes(memory)
        if cpu := resources.get("cpu"):
            parse_cpus(cpu)
    # Reading them is what checks them.
    _ = deployment.scaling, deployment.watchdog


def _texts(body: Mapping[str, Any], key: str) -> dict[str, str]:
    values = body.get(key)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadRequest(f"{key} has to be an object whose values are strings, without NUL")
    for name, value in values.items():
        if not _is_text(name) or not _is_text(value):
            raise BadRequest(f"{key} has to be an object whose values are strings, without NUL; see {name!r}")
    return dict(values)


def _list(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = body.get(key)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(map(_is_text, values)):
        raise BadRequest(f"{key} has to be a list of strings, without NUL")
    return tuple(values)


def _is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value can be in a file, an environment and a command line: Unicode without NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON can write.
        return False
    return True


def _is_command(value: object) -> TypeGuard[str]:
    if not _is_text(value):
        return False
    try:
        shlex.split(value)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class DeploymentRecord:
    """A deployment with what has to survive a restart of the gateway."""

    deployment: Deployment
    replicas: int
    created_at: str
    floor: int = 0
    """What an operator asked for last by scale-function: automatic scaling goes above it, never below."""

    deployed_at: str = ""
    """When the present deployment was made; `created_at` is of the function's first."""

    @classmethod
    def fresh(cls, deployment: Deployment) -> "DeploymentRecord":
        """Return the record of a function deployed now."""
        now = _now()
        return cls(deployment, deployment.min_replicas, now, deployed_at=now)

    def updated(self, deployment: Deployment) -> "DeploymentRecord":
        """Return the record with another deployment; its replicas stay, within the new bounds."""
        replicas = min(max(self.replicas, deployment.min_replicas), deployment.max_replicas)
        return replace(self, deployment=deployment, replicas=replicas, deployed_at=_now())

    @property
    def deployed_timestamp_seconds(self) -> float:
        """When the present deployment was made, in seconds since 1970."""
        return datetime.fromisoformat(self.deployed_at or self.created_at).timestamp()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class DeploymentStore:
    """One JSON file a function, each written whole."""

    def __init__(self, directory: Path) -> None:
        """Take over a directory that has been created; what a kill left half-written is removed."""
        self._directory = directory
        remove_half_written(directory)

    def save(self, record: DeploymentRecord) -> None:
        """Leave `record` in place of an older one of the same function.

        Raises:
            OSError: the older one is as it was.
        """
        path = self._directory / f"{record.deployment.function.key}.json"
        write_atomically(path, json.dumps(asdict(record), indent=2) + "\n")

    def remove(self, function: FunctionName) -> None:
        """Forget a function; one that is not there is no error."""
        (self._directory / f"{function.key}.json").unlink(missing_ok=True)

    def load(self) -> list[DeploymentRecord]:
        """Return every record, by name.

        Raises:
            ConfigurationError: a file is not what `save` has written.
        """
        records = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                records.append(self._read(path))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    f"{path} is damaged; remove it and deploy its function again"
                ) from error
        return records

    @staticmethod
    def _read(path: Path) -> DeploymentRecord:
        fields = json.loads(path.read_text())
        deployment = fields["deployment"]
        for key in ("constraints", "secrets"):
            deployment[key] = tuple(deployment[key])
        return DeploymentRecord(
            Deployment(**deployment),
            fields["replicas"],
            fields["created_at"],
            fields.get("floor", 0),
            fields.get("deployed_at", ""),
        )
