"""What the page says of a function that ran out of memory, at which limit, and for how long."""

import time

import pytest

from peer.dashboard import findings
from peer.dashboard.functions import FunctionHistory
from peer.dashboard.scrape import Scrape
from peer.dashboard.state import RECENT_SECONDS, Curves, Finding

MEBIBYTE = 1 << 20
NAME = '{function_name="gradient.openfaas-fn"}'


class Readings:
    """A gateway's figures of one function, read once a second; told as the page would tell them."""

    def __init__(self) -> None:
        self._history = FunctionHistory()
        self._count = 0

    def read(self, *, kills: int, limit_mb: int) -> None:
        self._count += 1
        page = {"localfaas_oom_kills_total": kills, "localfaas_memory_limit_bytes": limit_mb * MEBIBYTE}
        text = "".join(f"{name}{NAME} {value}\n" for name, value in page.items())
        self._history.add(Scrape.parse(text), [], float(self._count))

    def told(self) -> list[Finding]:
        return findings.find(time.time(), [], None, Curves(), self._history.functions, [], [], None)


def test_function_that_was_killed_is_told_with_its_limit_and_a_remedy() -> None:
    readings = Readings()
    readings.read(kills=0, limit_mb=64)
    readings.read(kills=2, limit_mb=64)

    (finding,) = readings.told()

    assert (finding.severity, finding.subject) == ("error", "function gradient")
    assert finding.text == "ran out of memory 2 times in the last 5 minutes, at its limit of 64 MiB"
    assert finding.remedy.startswith("train with --largest-memory, raise limits.memory")


def test_limit_that_was_raised_since_is_not_blamed() -> None:
    readings = Readings()
    readings.read(kills=0, limit_mb=64)
    readings.read(kills=1, limit_mb=2048)

    (finding,) = readings.told()

    assert (finding.severity, finding.remedy) == ("warning", "")
    assert finding.text == (
        "ran out of memory once in the last 5 minutes, at a limit of 64 MiB; it has 2048 MiB now"
    )


def test_kills_of_long_ago_are_told_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = Readings()
    readings.read(kills=0, limit_mb=64)
    readings.read(kills=1, limit_mb=64)
    later = time.time() + RECENT_SECONDS + 1.0
    monkeypatch.setattr(time, "time", lambda: later)

    readings.read(kills=1, limit_mb=64)

    assert readings.told() == []
