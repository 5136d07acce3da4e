"""The scripts of experiments: what they start and end, with a `peerless` that only writes down its calls."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from peer.experiments import matrix

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((CHECKOUT / "scripts" / "experiments").glob("*.sh"))
MEMORY = "memory-pressure"
MATRICES = [script.stem for script in SCRIPTS if script.stem != MEMORY]
FOLDER = "experiments/some"


@dataclass(frozen=True)
class FakeCheckout:
    """A checkout with the real script, and programs around it that do nothing."""

    directory: Path

    def run(
        self, *arguments: str, script: str = MEMORY, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PEERLESS_")}
        return subprocess.run(
            [self.directory / f"scripts/experiments/{script}.sh", *arguments],
            env={**own, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> FakeCheckout:
    for folder in ("scripts/experiments", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for script in [*SCRIPTS, CHECKOUT / "scripts/experiment.sh"]:
        shutil.copy(script, tmp_path / script.parent.relative_to(CHECKOUT))
    write_program(tmp_path / "scripts/install.sh", "echo install >>calls")
    write_program(tmp_path / ".venv/bin/peerless", 'echo "$*" >>calls; [ "$1" != "${FAILING:-}" ]')
    return FakeCheckout(tmp_path)


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_with_help_says_how_it_is_used_and_does_nothing(script: Path) -> None:
    outcome = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60)

    assert outcome.returncode == 0
    assert outcome.stdout.startswith(f"Usage: scripts/experiments/{script.name}")
    assert "--quick" in outcome.stdout
    assert len(script.read_text().splitlines()) < 60


def test_presets_are_those_of_the_document_and_scripts_have_one() -> None:
    text = (CHECKOUT / "docs/experiments.md").read_text().partition("## Presets")[2].partition("## ")[0]

    assert sorted(re.findall(r"^\| `([\w-]+)` \|", text, re.M)) == matrix.presets()
    assert set(MATRICES) <= set(matrix.presets())


def test_script_without_a_platform_starts_one_and_ends_it(checkout: FakeCheckout) -> None:
    outcome = checkout.run("--quick", "--model", "cnn", FAILING="status")

    assert outcome.returncode == 0
    assert checkout.calls == ["install", "status", "up", "experiment memory --quick --model cnn", "down"]


def test_script_with_a_platform_leaves_it_running(checkout: FakeCheckout) -> None:
    assert checkout.run("--quick").returncode == 0
    assert checkout.calls == ["install", "status", "experiment memory --quick"]


def test_script_with_a_gateway_elsewhere_neither_starts_nor_ends_anything(checkout: FakeCheckout) -> None:
    outcome = checkout.run(PEERLESS_GATEWAY="http://gateway.example:8080", FAILING="status")

    assert outcome.returncode == 0
    assert checkout.calls == ["install", "experiment memory"]


def test_script_hands_on_how_the_experiment_ended_having_ended_its_platform(checkout: FakeCheckout) -> None:
    checkout.directory.joinpath(".venv/bin/peerless").write_text(
        '#!/usr/bin/env bash\necho "$1" >>calls\ncase $1 in status) exit 50 ;; experiment) exit 26 ;; esac\n'
    )

    assert checkout.run().returncode == 26
    assert checkout.calls[-2:] == ["experiment", "down"]


@pytest.fixture
def runs_matrices(checkout: FakeCheckout) -> FakeCheckout:
    """A checkout whose `peerless experiment run` ends with $ENDS_WITH, and prints a folder unless stopped."""
    write_program(
        checkout.directory / ".venv/bin/peerless",
        'echo "$*" >>calls\n[ "$2" = run ] || exit 0\n'
        f'[ "${{ENDS_WITH:-0}}" = 130 ] || echo {FOLDER}\nexit "${{ENDS_WITH:-0}}"',
    )
    return checkout


@pytest.mark.parametrize("script", MATRICES)
def test_script_of_a_matrix_runs_its_preset_and_makes_the_report(runs_matrices, script: str) -> None:
    outcome = runs_matrices.run("--quick", "--set", "peers=2", script=script)

    assert outcome.returncode == 0
    run = f"experiment run {script} --quick --set peers=2"
    assert runs_matrices.calls == ["install", run, f"experiment report {FOLDER}"]


def test_script_of_a_matrix_with_failed_cells_makes_the_report_and_hands_the_code_on(runs_matrices) -> None:
    assert runs_matrices.run(script="peers", ENDS_WITH="1").returncode == 1
    assert runs_matrices.calls[-1] == f"experiment report {FOLDER}"


def test_script_of_a_matrix_that_was_stopped_makes_no_report(runs_matrices) -> None:
    assert runs_matrices.run(script="peers", ENDS_WITH="130").returncode == 130
    assert runs_matrices.calls == ["install", "experiment run peers"]


def test_script_of_a_matrix_with_a_gateway_elsewhere_starts_and_ends_nothing(runs_matrices) -> None:
    outcome = runs_matrices.run(script="paper", PEERLESS_GATEWAY="http://gateway.example:8080")

    assert outcome.returncode == 0
    assert not {"up", "down"} & {word for call in runs_matrices.calls for word in call.split()}
