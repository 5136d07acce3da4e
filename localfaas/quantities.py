"""Kubernetes quantities and Go durations, as OpenFaaS writes them in a stack file."""

import re
from decimal import Decimal

from localfaas.errors import BadRequest

_QUANTITY = re.compile(
    r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<suffix>m|[kMGTPE]|[KMGTPE]i|[eE][+-]?\d{1,2})?", re.ASCII
)
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_MAX_BYTES = 1 << 60
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse_quantity(text: str, what: str) -> Decimal:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise BadRequest(f"{what} {text!r} is no Kubernetes quantity; write it like 128Mi, 1Gi, 512M or 250m")
    number, suffix = Decimal(match["number"]), match["suffix"] or ""
    if suffix == "m":
        return number / 1000
    if suffix.endswith("i"):
        return number * Decimal(1024) ** ("KMGTPE".index(suffix[0]) + 1)
    if suffix and suffix[0] in "eE" and len(suffix) > 1:
        return number.scaleb(int(suffix[1:]))
    return number * Decimal(1000) ** ("kMGTPE".index(suffix) + 1) if suffix else number


def parse_memory_bytes(text: str) -> int:
    """Return the bytes that a memory quantity such as `400Mi`, `1Gi` or `512M` stands for.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/

    Raises:
        BadRequest: it is no quantity, or less than one byte.
    """
    num_bytes = int(_parse_quantity(text, "memory limit"))
    if num_bytes < 1:
        raise BadRequest(f"memory limit {text!r} is less than one byte; write it like 128Mi")
    if num_bytes > _MAX_BYTES:
        raise BadRequest(f"memory limit {text!r:.50} is more than a machine can have; write it like 128Mi")
    return num_bytes


def parse_cpus(text: str) -> float:
    """Return the number of CPUs that a quantity such as `250m` or `2` stands for.

    Raises:
        BadRequest: it is no quantity, or zero.
    """
    cpus = float(_parse_quantity(text, "CPU limit"))
    if cpus <= 0:
        raise BadRequest(f"CPU limit {text!r} is not above zero; write it like 250m or 2")
    return cpus


def parse_duration_seconds(text: str) -> float:
    """Return the seconds of a Go duration (`1m30s`, `500ms`); a bare integer is seconds, as in OpenFaaS.

    Source: https://pkg.go.dev/time#ParseDuration

    Raises:
        BadRequest: it is neither.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BadRequest(f"duration {text!r} cannot be read; write it like 120s, 2m or 1m30s")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
