"""Grafana's alert rules, one for each of Prometheus': Prometheus decides, Grafana tells people.

A rule of Grafana's reads `ALERTS`, the series in which Prometheus says what fires. So each alert is defined
once, where promtool tests it, and reaches people through Grafana's contact points, without an Alertmanager.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from dashboards.source import functions, peers, store, training
from dashboards.source.frame import Spec, panel_id

DATA_SOURCE_UID = "peerless-prometheus"
Model = dict[str, object]
_FOLDER = "peerless"
_LABELS = "function_name, run, peer, severity"


@dataclass(frozen=True)
class Alert:
    """What Grafana tells about an alert of Prometheus': one sentence, and the panel that shows why.

    The value of `ALERTS` is always 1, so the sentence has labels only: the panel has the figures.
    """

    name: str
    summary: str
    dashboard: Spec
    panel: str

    def rule(self) -> dict[str, object]:
        """Return the rule as Grafana's provisioning reads it: without such an alert, all is well."""
        firing = f'max by ({_LABELS}) (ALERTS{{alertname="{self.name}", alertstate="firing"}})'
        read: Model = {"refId": "alerts", "expr": firing, "instant": True, "range": False}
        compare: Model = {
            "refId": "fires",
            "type": "threshold",
            "expression": "alerts",
            "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
        }
        return {
            "uid": f"peerless-{self.name}",
            "title": self.name,
            "condition": "fires",
            "data": [_step(read, DATA_SOURCE_UID), _step(compare, "__expr__")],
            "noDataState": "OK",
            "execErrState": "Error",
            "for": "0s",
            "annotations": {
                # not $labels: a dollar begins a variable of the environment, and whether two of them are one
                # depends on Grafana's version
                "summary": self.summary.replace("{{", "{{ .Labels.").replace("}}", " }}"),
                "__dashboardUid__": self.dashboard.uid,
                "__panelId__": str(panel_id(self.dashboard, self.panel)),
            },
        }


ALERTS: Sequence[Alert] = (
    Alert(
        "FunctionMemoryNearLimit",
        "{{function_name}} is close to its memory limit: raise limits.memory, or lower the batch size",
        functions.SPEC,
        "Working set, of the limit",
    ),
    Alert(
        "FunctionOutOfMemory",
        "{{function_name}} was killed at its memory limit: raise limits.memory, or lower the batch size",
        functions.SPEC,
        "OOM kills and cold starts",
    ),
    Alert(
        "FunctionMemoryPressure",
        "{{function_name}} waits for memory: raise limits.memory, or lower the batch size",
        functions.SPEC,
        "Memory pressure",
    ),
    Alert(
        "ColdStartStorm",
        "Replicas of {{function_name}} end and start again and again",
        functions.SPEC,
        "OOM kills and cold starts",
    ),
    Alert("GatewayErrors", "Invocations of {{function_name}} fail", functions.SPEC, "Errors"),
    Alert(
        "PeerStraggling",
        "All peers of run {{run}} wait for peer {{peer}}",
        peers.SPEC,
        "Own work a round",
    ),
    Alert(
        "RoundStalled",
        "Peer {{peer}} of run {{run}} has completed no round for long",
        peers.SPEC,
        "Since the last round",
    ),
    Alert("LossDiverging", "The loss of run {{run}} grows", training.SPEC, "Loss"),
    Alert("StoreErrors", "Requests of run {{run}} to the store fail", store.SPEC, "Errors, by operation"),
)


def render() -> str:
    """Return the text of the provisioning file."""
    group = {
        "orgId": 1,
        "name": _FOLDER,
        "folder": _FOLDER,
        "interval": "10s",
        "rules": [alert.rule() for alert in ALERTS],
    }
    heading = "# Written by `python -m dashboards.source`: change dashboards/source/alerting.py.\n"
    return heading + yaml.safe_dump({"apiVersion": 1, "groups": [group]}, sort_keys=False, width=110)


def _step(model: Model, source: str) -> dict[str, object]:
    return {
        "refId": model["refId"],
        "relativeTimeRange": {"from": 60, "to": 0},
        "datasourceUid": source,
        "model": model,
    }
