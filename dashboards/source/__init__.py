"""Grafana dashboards as code.

`python -m dashboards.source` writes `dashboards/grafana/*.json`. Nothing here is imported by peerless itself:
it needs `grafana-foundation-sdk`, which is a dependency of development only.
"""
