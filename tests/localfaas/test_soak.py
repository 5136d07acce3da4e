"""Functions that come, go, are scaled and killed while they are called; at length in `benchmarks/soak.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_soak_loses_no_request_and_leaves_nothing() -> None:
    done = subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "soak.py",
            "--invocations",
            "600",
            "--functions",
            "4",
            "--clients",
            "8",
        ],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["lost"], result["problems"]) == (0, [])
    assert sum(result["statuses"].values()) == 600
    assert set(result["events"]) == {"kill", "scale", "redeploy", "remove"}, (
        "every kind of event has happened"
    )
