"""The smoke preset as a person runs it: from the shell, on a platform of its own, killed in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import CHECKOUT

from peer.experiments import records
from peer.experiments.records import CellRecord
from peer.experiments.report.build import read_experiment
from peer.experiments.simulator.validation import predictions
from peer.local.platform import Platform
from peer.store.retry import Patience, poll

pytestmark = pytest.mark.slow

COMMAND = (
    *(sys.executable, "-m", "peer", "experiment", "run", "smoke", "--quick"),
    *("--outage-patience", "10", "--output"),
)
PATIENCE = Patience(total_seconds=300.0, first_seconds=0.05, longest_seconds=0.2)


def environment(directory: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PEERLESS_")}
    return own | {"XDG_STATE_HOME": str(directory / "state-home"), "PYTHONPATH": str(CHECKOUT)}


def test_smoke_without_its_gateway_and_killed_goes_on_and_has_every_variant_measured(tmp_path: Path) -> None:
    output = tmp_path / "out"
    directory = output / "smoke-quick"
    first = subprocess.Popen([*COMMAND, output], env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    # the folder is there before the cell's process has come to the gateway
    assert poll(lambda: next((directory / "runs").glob("*"), None), PATIENCE)
    kill_gateway(directory / "platform")
    assert poll(lambda: records.read_cells(directory) or None, PATIENCE)
    os.kill(first.pid, signal.SIGKILL)
    _, said = first.communicate()
    before = records.read_cells(directory)

    second = subprocess.run(
        [*COMMAND, output], env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )

    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == [str(directory)]
    assert "gateway or store were away meanwhile; once again" in said
    assert "it is started again" in said
    assert f"3 cells, {len(before)} of them done" in second.stderr
    assert "left)" in second.stderr
    found = records.read_cells(directory)
    assert found[: len(before)] == before
    assert sorted(record.variant for record in found) == ["conventional", "ddp", "serverless"]
    assert {record.status for record in found} == {"ok"}
    by_variant = {record.variant: record for record in found}
    check_measured(by_variant)
    box = by_variant["conventional"].box
    assert box is not None
    assert (box.instance_type, box.memory_bytes) == ("t2.medium", 4 << 30)
    assert box.memory_held_by or "not held" in box.note
    check_report(directory, tmp_path / "report")
    assert not (directory / "platform").exists()
    assert Platform(directory / "platform").gateway_address() is None


def kill_gateway(state_dir: Path) -> None:
    gateway = Platform(state_dir).state().gateway
    assert gateway is not None
    os.kill(gateway.process.pid, signal.SIGKILL)


def check_measured(cells: dict[str, CellRecord]) -> None:
    """Assert what must be so of a measurement, whatever the machine."""
    serverless, conventional, ddp = (cells[name].measured for name in ("serverless", "conventional", "ddp"))
    assert serverless is not None
    assert conventional is not None
    assert ddp is not None
    # the same bits, wherever a gradient is computed
    assert serverless.weights_sha256 == conventional.weights_sha256 != ""
    for measured in (serverless, conventional, ddp):
        assert [each.is_warm_up for each in measured.rounds] == [True, False]
        assert (measured.samples, measured.epochs) == (1024, 2.0)
        assert all(each.seconds >= each.phase_seconds["compute"] > 0 for each in measured.rounds)
        assert [each.peer for each in measured.peers] == [0, 1]
        assert all(each.cpu_seconds > 0 and each.peak_rss_bytes > 1 << 20 for each in measured.peers)
        assert measured.exchange_bytes > 0
    # DDP divides by samples in another order, but takes the same steps on the same samples
    assert ddp.rounds[1].loss == pytest.approx(serverless.rounds[1].loss, rel=1e-4)
    assert ddp.test_accuracy == pytest.approx(serverless.test_accuracy, abs=0.02)
    assert all(len(each.invocation_seconds["gradient"]) == 8 for each in serverless.rounds)
    assert serverless.functions["gradient"].invocations == 16
    assert serverless.functions["gradient"].cpu_seconds > 0
    assert serverless.functions["gradient"].memory_limit_bytes == 2 << 30
    assert all(each.send_seconds > 0 and each.receive_seconds > 0 for each in serverless.rounds)
    for measured in (serverless, conventional):
        last = measured.rounds[1]
        assert {"publish", "compute", "exchange", "update"} <= last.phase_cpu_seconds.keys()
        assert last.phase_peak_bytes.keys() <= last.phase_seconds.keys()
    assert conventional.rounds[1].phase_cpu_seconds["compute"] > 0
    assert conventional.functions == ddp.functions == {}


def check_report(directory: Path, to: Path) -> None:
    """Assert that there is a report, and that the simulator takes no longer than what it is fed with.

    Shorter they may be: it knows nothing of what else this machine does.
    """
    command = [sys.executable, "-m", "peer", "experiment", "report", directory, "--to", to]
    subprocess.run(command, env=environment(to.parent), check=True, timeout=300)
    assert "smoke-quick" in (to / "report.html").read_text()
    found = list(predictions(read_experiment(directory).groups, records.read_machine(directory).cores))
    assert sorted(each.group.variant for each in found) == ["conventional", "serverless"]
    assert [each.source for each in found] == ["itself", "itself"]
    assert all(0 < each.simulated_gradient < 1.3 * each.measured_gradient for each in found), found
