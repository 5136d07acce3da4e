"""What a function's environment says to the watchdog in front of it; here the gateway is most of one.

Source: https://github.com/openfaas/of-watchdog#configuration. Variables that are not here concern a watchdog
in a container only.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from localfaas.errors import BadRequest
from localfaas.quantities import parse_duration_seconds

# A process a request. In the mode `http`, the default, `fprocess` is a server itself.
FORKING_MODES = ("classic", "serializing", "streaming")
MODES = ("http", *FORKING_MODES)


@dataclass(frozen=True)
class WatchdogOptions:
    """Options of one function; durations are None where it does not say, and 0 where there is no limit.

    Attributes:
        exec_timeout_seconds: the longest that one request may take.
        read_timeout_seconds: the longest that a client may take to send its request.
        write_timeout_seconds: the longest until a reply has been written, from when the function has the
            request; and until a replica has ended that was asked to.
        max_inflight: requests that a replica has at any time.
        healthcheck_interval_seconds: how often an idle replica is asked for its health; 0 for never.
        ready_path: of a server behind `upstream_url`: what it is asked for, to know whether it is ready.
    """

    exec_timeout_seconds: float | None = None
    read_timeout_seconds: float | None = None
    write_timeout_seconds: float | None = None
    max_inflight: int = 1
    healthcheck_interval_seconds: float = 0.0
    ready_path: str = ""

    def time_limits(self, default_exec_seconds: float) -> "TimeLimits":
        """Return what one request may take, where `default_exec_seconds` holds if nothing is said."""
        exec_seconds = self.exec_timeout_seconds
        named = {
            "exec_timeout": default_exec_seconds if exec_seconds is None else exec_seconds,
            "write_timeout": self.write_timeout_seconds or 0.0,
        }
        name = min(named, key=lambda each: named[each] or sys.maxsize)
        return TimeLimits(self.read_timeout_seconds or 0.0, name, named[name])


@dataclass(frozen=True)
class TimeLimits:
    """What one request may take, in seconds; 0 for no limit."""

    read_seconds: float
    """Until it has come whole."""

    reply_name: str
    """The option that `reply_seconds` is from."""

    reply_seconds: float
    """From when a replica has it until its reply is whole."""


def parse_watchdog_options(environment: Mapping[str, str]) -> WatchdogOptions:
    """Return the options that an environment names.

    Raises:
        BadRequest: a value is impossible; the message names the variable.
    """
    mode = environment.get("mode", "http")
    if mode not in MODES:
        raise BadRequest(f"mode {mode!r} is not served; use http, streaming, serializing or classic")
    ready_path = environment.get("ready_path", "")
    if ready_path and not (ready_path.startswith("/") and ready_path.isascii() and ready_path.isprintable()):
        raise BadRequest(f"ready_path {ready_path!r:.100} has to be a path such as /ready")
    return WatchdogOptions(
        exec_timeout_seconds=_duration(environment, "exec_timeout"),
        read_timeout_seconds=_duration(environment, "read_timeout"),
        write_timeout_seconds=_duration(environment, "write_timeout"),
        max_inflight=_max_inflight(environment.get("max_inflight", "")),
        healthcheck_interval_seconds=_duration(environment, "healthcheck_interval") or 0.0,
        ready_path=ready_path.replace(" ", "%20"),
    )


def _duration(environment: Mapping[str, str], name: str) -> float | None:
    if not (text := environment.get(name)):
        return None
    try:
        return parse_duration_seconds(text)
    except BadRequest as error:
        raise BadRequest(f"{name}: {error}") from error


def _max_inflight(text: str) -> int:
    if not text:
        return 1
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest(f"max_inflight {text!r:.50} has to be a whole number; 0 means no limit")
    return int(text) or sys.maxsize
