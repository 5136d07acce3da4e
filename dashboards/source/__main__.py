"""Write what Grafana reads, the dashboards and the alerting: python -m dashboards.source."""

import sys
from pathlib import Path

from dashboards.source import alerting, functions, peers, store, training
from dashboards.source.frame import Spec, render

HERE = Path(__file__).parents[1]
FOLDER = HERE / "grafana"
ALERTING = HERE / "provisioning" / "alerting" / "peerless.yaml"
SPECS: tuple[Spec, ...] = (training.SPEC, functions.SPEC, peers.SPEC, store.SPEC)


def rendered() -> dict[Path, str]:
    """Return every file that is written, and its text."""
    dashboards = {FOLDER / f"{spec.uid}.json": render(spec) for spec in SPECS}
    return dashboards | {ALERTING: alerting.render()}


def main() -> None:
    """Write the files that differ, and name them."""
    for path, text in rendered().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
