"""What colours mean, and where a value begins to be bad. One meaning a colour on all dashboards.

Green, orange and red are states. Peers have Okabe and Ito's colours, which people with any common colour
blindness can tell apart; phases and functions have colours of Grafana's palette, which suit both its themes.
"""

from collections.abc import Sequence

from grafana_foundation_sdk.models.dashboard import Threshold

GOOD, WARNING, BAD = "green", "orange", "red"
NEUTRAL, LIMIT = "blue", "red"

PEERS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#999999")
PHASES = {
    "publish": "#5794F2",
    "evaluate": "#FADE2A",
    "compute": "#B877D9",
    "average": "#8AB8FF",
    "exchange": "#FF9830",
    "wait": "#9FA7B3",
    "update": "#73BF69",
    # of an invocation, beside compute
    "load_model": "#CA95E5",
    "fetch": "#5794F2",
    "preprocess": "#8AB8FF",
    "upload": "#FF9830",
    "other": "#9FA7B3",
}
OPERATIONS = {
    "get": "#5794F2",
    "put": "#B877D9",
    "head": "#8AB8FF",
    "delete": "#FADE2A",
    "list": "#9FA7B3",
}
FUNCTIONS = {"gradient": "#B877D9", "evaluate": "#FADE2A", "aggregate": "#8AB8FF"}

Colours = Sequence[tuple[str, str]]
BY_PEER: Colours = [(f"/peer {rank}$/", colour) for rank, colour in enumerate(PEERS)]
BY_PHASE: Colours = [(f"/^{phase}/", colour) for phase, colour in PHASES.items()]
BY_OPERATION: Colours = [(f"/^{operation}$/", colour) for operation, colour in OPERATIONS.items()]
BY_FUNCTION: Colours = [(f"/^{name}\\b/", colour) for name, colour in FUNCTIONS.items()]

Steps = list[Threshold]


def steps(*, warning: float, bad: float) -> Steps:
    """Return thresholds for a value that is the worse the larger it is."""
    return [Threshold(None, GOOD), Threshold(warning, WARNING), Threshold(bad, BAD)]


def always(colour: str) -> Steps:
    """Return thresholds that give any value one colour."""
    return [Threshold(None, colour)]


# the limits of the alert rules, so that a bar turns red where an alert fires
MEMORY_RATIO = steps(warning=0.8, bad=0.9)
PRESSURE_RATIO = steps(warning=0.05, bad=0.1)
ERROR_RATIO = steps(warning=0.01, bad=0.05)
STRAGGLING = steps(warning=1.2, bad=1.5)
ANY_IS_BAD = steps(warning=0.5, bad=1)
