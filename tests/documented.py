"""What docs/metrics.md says, and what a page of metrics really has, in one form to compare."""

import re
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

METRICS = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
_COLUMNS = 6
# of a sample, not of the metric
_BUCKET = "le"


class Documented(NamedTuple):
    type: str
    labels: frozenset[str]


def documented_metrics(where: str) -> dict[str, Documented]:
    """Return type and labels by name of the rows whose last column names `where`."""
    found = {}
    for line in METRICS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == _COLUMNS and cells[0].startswith("`") and where in cells[5].split(", "):
            name, kind, unit, labels = cells[0].strip("`"), cells[1], cells[2], cells[3]
            assert unit and cells[4], f"{name} has no unit or no meaning"
            assert name not in found, f"{name} has two rows"
            found[name] = Documented(kind, frozenset(re.findall(r"`(\w+)`", labels)))
    return found


def exported_metrics(text: str) -> dict[str, Documented]:
    """Return type and labels by name of every family that has a sample; each must have a help text."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, f"{family.name} has no help text"
        if family.samples:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = frozenset(label for sample in family.samples for label in sample.labels)
            found[name] = Documented(family.type, labels - {_BUCKET})
    return found
