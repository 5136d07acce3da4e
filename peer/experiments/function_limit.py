"""A function's memory limit, changed through the gateway's update call, and put back afterwards."""

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from peer.errors import ConfigurationError, PeerlessError
from peer.gateway import Gateway, specification_of
from peer.sizes import parse_size, quantity
from peer.store.retry import Patience, poll, retry

log = logging.getLogger(__name__)

ORIGINAL = "peerless.original-resources"
"""The annotation that a function carries while its limit is another: what its limits and requests were.

It outlives a SIGKILL of whoever changed them, so that the next who comes can put them back.
"""

_RESTORE = Patience(total_seconds=60.0, longest_seconds=2.0)


class FunctionLimit:
    """The memory limit of one function during a `with` block, in which nobody else should change it.

    Entering changes nothing. Leaving, in whatever way, makes limits and requests what they were; SIGINT and
    SIGTERM are ignored while it does.

    Args:
        gateway: whose password is known.
        function: its name.
        patience_seconds: how long replicas may take to come up under another limit.
    """

    def __init__(self, gateway: Gateway, function: str, patience_seconds: float) -> None:
        self._gateway = gateway
        self._function = function
        self._patience = Patience(patience_seconds, first_seconds=0.02, longest_seconds=1.0)

    def __enter__(self) -> "FunctionLimit":
        self._gateway.describe(self._function)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the limits back.

        Raises:
            PeerlessError: the gateway does not take it; the message says what to do.
        """
        with _signals_ignored():
            try:
                retry(self._restore, _RESTORE)
            except PeerlessError as failure:
                failure.args = (
                    f"{failure}. Function {self._function} may still have another memory limit than it had: "
                    "deploy it again with `peerless up` or `faas-cli deploy -f stack.yml`",
                )
                raise

    def set(self, limit_bytes: int) -> str:
        """Deploy the function with this limit; return "" once a replica is up, else why there is none.

        Every replica is replaced, also if the limit is what it was.

        Raises:
            FunctionError: the gateway cannot be asked, or refuses the limit.
        """
        self._gateway.update(limited(self._gateway.describe(self._function), limit_bytes))
        wanted, last_error = quantity(limit_bytes), ""

        def probe() -> str | None:
            nonlocal last_error
            description = self._gateway.describe(self._function)
            if (description.get("limits") or {}).get("memory") != wanted:
                return None
            if int(description.get("availableReplicas", 0)) > 0:
                return ""
            last_error = (description.get("annotations") or {}).get("localfaas.last-error", "")
            return last_error or None

        reason = poll(probe, self._patience)
        return f"no replica came up with {wanted}" if reason is None else reason

    def check_unchanged(self, limit_bytes: int) -> None:
        """Return if the function has the limit that was set.

        Raises:
            ConfigurationError: it has another; what was measured meanwhile says nothing.
        """
        limits = self._gateway.describe(self._function).get("limits") or {}
        found, wanted = limits.get("memory", "none"), quantity(limit_bytes)
        if found != wanted:
            raise ConfigurationError(
                f"somebody else deployed function {self._function} meanwhile: its memory limit is {found} "
                f"instead of {wanted}; run one experiment at a time"
            )

    def _restore(self) -> None:
        specification = restored(self._gateway.describe(self._function))
        if specification is not None:
            self._gateway.update(specification)


def limited(description: dict[str, Any], limit_bytes: int) -> dict[str, Any]:
    """Return the specification of a function with this memory limit, and with a note of what it had.

    A memory request above the limit, which Kubernetes refuses, becomes the limit.
    """
    specification = specification_of(description)
    annotations = dict(specification.get("annotations") or {})
    resources = {name: dict(specification.get(name) or {}) for name in ("limits", "requests")}
    annotations.setdefault(ORIGINAL, json.dumps(resources, sort_keys=True))
    resources = json.loads(annotations[ORIGINAL])
    resources["limits"]["memory"] = quantity(limit_bytes)
    if "memory" in resources["requests"]:
        asked_bytes = parse_size(resources["requests"]["memory"])
        resources["requests"]["memory"] = quantity(min(asked_bytes, limit_bytes))
    return {**specification, **resources, "annotations": annotations}


def restored(description: dict[str, Any]) -> dict[str, Any] | None:
    """Return the specification of a function as it was before `limited`, None if it is that already."""
    specification = specification_of(description)
    annotations = dict(specification.get("annotations") or {})
    original = annotations.pop(ORIGINAL, None)
    if original is None:
        return None
    return {**specification, **json.loads(original), "annotations": annotations}


@contextmanager
def _signals_ignored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
