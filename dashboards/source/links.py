"""From a bar to the dashboard that says why, with what the bar stands for chosen there."""

from grafana_foundation_sdk.models.dashboard import DashboardLink

_KEPT = "${datasource:queryparam}&${__url_time_range}"


def to_functions() -> DashboardLink:
    """Return a link to the bar's function on *Functions*."""
    url = f"/d/peerless-functions/?var-function=${{__field.labels.function_name}}&{_KEPT}"
    return DashboardLink(title="Why: this function", url=url)


def to_peers() -> DashboardLink:
    """Return a link to the bar's peer on *Peers and exchange*."""
    url = f"/d/peerless-peers/?var-peer=${{__field.labels.peer}}&${{run:queryparam}}&{_KEPT}"
    return DashboardLink(title="Why: this peer", url=url)
