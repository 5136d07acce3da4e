"""The peers' metrics addresses, for Prometheus.

https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from peer.dashboard.runs import Member
from peer.dashboard.sources import is_page


def targets(members: Iterable[Member]) -> list[dict[str, Any]]:
    """Return one target group a running peer that serves metrics, sorted by run and peer."""
    serving = [
        member for member in members if member.status == "running" and is_page(member.facts.metrics_url)
    ]
    return [
        _target(member)
        for member in sorted(serving, key=lambda member: (member.facts.run, member.facts.peer))
    ]


def _target(member: Member) -> dict[str, Any]:
    parts = urlsplit(member.facts.metrics_url)
    labels = {"run": member.facts.run, "peer": str(member.facts.peer)}
    if parts.scheme != "http":
        labels["__scheme__"] = parts.scheme
    if parts.path not in ("", "/", "/metrics"):
        labels["__metrics_path__"] = parts.path
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return {"targets": [f"{host}:{port}"], "labels": labels}
