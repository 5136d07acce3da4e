"""What phases use: CPU and memory of this very process."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.records.meter import Meter
from peer.records.phases import PhaseClock

MIB = 1 << 20


@pytest.fixture
def meter() -> Iterator[Meter]:
    meter = Meter()
    yield meter
    meter.close()


def test_phases_have_cpu_and_peaks_of_their_own(meter: Meter) -> None:
    clock = PhaseClock(meter=meter)
    with clock.phase("compute"):
        large = bytearray(200 * MIB)
        del large
    with clock.phase("exchange"):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    used = clock.take_use()

    peaks, cpu_seconds = used["phase_peak_bytes"], used["phase_cpu_seconds"]
    assert peaks["compute"] > peaks["exchange"] + 150 * MIB
    assert used["peak_rss_bytes"] >= peaks["compute"]
    assert cpu_seconds["exchange"] >= 0.05
    assert cpu_seconds["compute"] > 0


def test_meter_begins_anew_but_for_the_largest_peak(meter: Meter) -> None:
    clock = PhaseClock(meter=meter)
    with clock.phase("compute"):
        large = bytearray(100 * MIB)
        del large
    largest = clock.take_use()["peak_rss_bytes"]

    with clock.phase("update"):
        pass

    used = clock.take_use()
    assert used["phase_cpu_seconds"].keys() == used["phase_peak_bytes"].keys() == {"update"}
    assert used["peak_rss_bytes"] == largest


def test_meter_without_proc_has_cpu_and_the_peak_of_all(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    clock = PhaseClock(meter=meter)
    with clock.phase("compute"):
        pass

    used = clock.take_use()

    assert used["phase_peak_bytes"] == {}
    assert used["phase_cpu_seconds"].keys() == {"compute"}
    assert used["peak_rss_bytes"] > MIB


def test_clock_without_a_meter_has_no_use() -> None:
    assert PhaseClock().take_use() == {}
