"""Write `dashboards/grafana/*.json`: python -m dashboards.source."""

import sys
from pathlib import Path

from dashboards.source import functions, peers, store, training
from dashboards.source.frame import Spec, render

FOLDER = Path(__file__).parents[1] / "grafana"
SPECS: tuple[Spec, ...] = (training.SPEC, functions.SPEC, peers.SPEC, store.SPEC)


def rendered() -> dict[Path, str]:
    """Return every dashboard's file and its text."""
    return {FOLDER / f"{spec.uid}.json": render(spec) for spec in SPECS}


def main() -> None:
    """Write the files that differ, and name them."""
    for path, text in rendered().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
