"""Amounts of memory as OpenFaaS writes them: `512Mi`, `2Gi`, `128M`, or bytes."""

import re

from peer.errors import ConfigurationError

MIB = 1 << 20

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]i?|k)?")
_POWERS = {"K": 1, "k": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Return the bytes of a quantity.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/.

    Raises:
        ConfigurationError: it is none, or less than a byte.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = (match and match[2]) or ""
    base = 1024 if unit.endswith("i") else 1000
    num_bytes = int(float(match[1]) * base ** _POWERS.get(unit[:1], 0)) if match else 0
    if num_bytes < 1:
        raise ConfigurationError(f"{text!r} is no amount of memory: write 512Mi, 2Gi, or bytes")
    return num_bytes


def quantity(num_bytes: int) -> str:
    """Return an amount as a gateway takes it, in whole MiB where it is that."""
    return f"{num_bytes // MIB}Mi" if num_bytes % MIB == 0 else str(num_bytes)


def mib(num_bytes: float) -> str:
    """Return an amount as people read it: `44 MiB`, `0.5 MiB`."""
    amount = num_bytes / MIB
    return f"{amount:.0f} MiB" if amount == round(amount) else f"{amount:.1f} MiB"
