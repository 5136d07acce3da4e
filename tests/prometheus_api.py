"""A running Prometheus, asked over its HTTP API: https://prometheus.io/docs/prometheus/latest/querying/api/."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import requests


class Sample(NamedTuple):
    """One series' value at one time; the metric's name is a label, `__name__`."""

    labels: dict[str, str]
    value: float


class Curve(NamedTuple):
    """One series' values over a time, those that there are."""

    labels: dict[str, str]
    values: list[float]


@dataclass(frozen=True)
class PrometheusApi:
    """Questions to one Prometheus; a question that it refuses is an AssertionError with its reason."""

    url: str

    def now(self, expr: str) -> list[Sample]:
        """Return what an expression is now; a scalar is a sample without labels."""
        found = self._get("query", query=expr)
        if found["resultType"] == "scalar":
            return [Sample({}, float(found["result"][1]))]
        return [Sample(series["metric"], float(series["value"][1])) for series in found["result"]]

    def course(self, expr: str, last_seconds: float = 300.0, step_seconds: float = 5.0) -> list[Curve]:
        """Return what an expression was until now, as a panel asks for it."""
        end = time.time()
        times = {"start": end - last_seconds, "end": end, "step": step_seconds}
        found = self._get("query_range", query=expr, **times)["result"]
        return [Curve(series["metric"], [float(value) for _, value in series["values"]]) for series in found]

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire now."""
        return [alert["labels"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"]

    def targets(self) -> list[dict[str, Any]]:
        """Return what is scraped, and how it went."""
        found: list[dict[str, Any]] = self._get("targets", state="active")["activeTargets"]
        return found

    def _get(self, path: str, **parameters: Any) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]
