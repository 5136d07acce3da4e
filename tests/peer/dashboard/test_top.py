"""`peerless top`: the page's essentials in a terminal, a real one where it makes a difference."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pages import GIBIBYTE, FakeGateway, Runs, until
from rich.console import Console

from peer.dashboard.state import Curves, RunState, Source, State
from peer.dashboard.terminal import frame

pytestmark = pytest.mark.slow


def top(directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peer", "top", "--state-dir", "state", "--runs-dir", "runs", *arguments]
    return subprocess.run(
        [str(word) for word in command], cwd=directory, capture_output=True, text=True, timeout=60
    )


def printed(state: State) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(frame(state))
    return captured.get()


def begin(runs: Runs, gateway: FakeGateway) -> None:
    gateway.add_function(
        "gradient",
        localfaas_replica_working_set_bytes=0.95 * GIBIBYTE,
        localfaas_memory_limit_bytes=GIBIBYTE,
        localfaas_oom_kills_total=3,
    )
    runs.create("digits")
    for peer in range(2):
        # the second one's way to the store is slow, and the first one waits for it
        seconds = {"compute": 1.0, "exchange": 0.5 + 3 * peer, "wait": 3.0 - 3 * peer}
        runs.write_round("digits", peer, 0, phase_seconds=seconds)
        runs.beat("digits", peer, 1)


def test_top_without_anything_says_what_is_missing(tmp_path: Path) -> None:
    done = top(tmp_path)

    words = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert words.startswith("no run yet: `peerless train` begins one")
    assert "gateway: no gateway: start one with `peerless up`" in words
    assert "store: no store: start one with `peerless up`" in words
    assert done.stderr == ""


def test_top_of_a_run_that_is_not_there_has_exit_code_2(runs: Runs, tmp_path: Path) -> None:
    done = top(tmp_path, "nosuch", *runs.options)

    assert done.returncode == 2
    assert done.stderr == "peerless: there is no run 'nosuch': `peerless runs list` shows those that are\n"


def test_top_shows_the_starved_function_and_the_slow_peer(
    runs: Runs, gateway: FakeGateway, tmp_path: Path
) -> None:
    begin(runs, gateway)

    done = top(tmp_path, "--once", *runs.options, "--gateway", gateway.url)

    assert re.search(r"^digits +running$", done.stdout, re.M)
    assert "! function gradient uses 95% of its limit of 1024 MiB" in done.stdout
    assert re.search(r"^gradient +█+░* 973 MiB of 1 GiB", done.stdout, re.M)
    assert re.search(r"^1 slow +█+ +exchange 78% +4\.50 +4\.50 +1 *$", done.stdout, re.M)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("seconds", "left", "elapsed"),
    [
        (59.4, "59 s", "0:00:59"),
        (61, "1 min 01 s", "0:01:01"),
        (3599.6, "1 h 00 min", "1:00:00"),
        (166512, "46 h 15 min", "46:15:12"),
    ],
)
def test_times_are_said_in_units_that_a_person_reads(seconds: float, left: str, elapsed: str) -> None:
    run = RunState(
        "digits",
        "running",
        elapsed_seconds=seconds,
        remaining_seconds=seconds,
        **dict.fromkeys(("loss", "round_seconds"), 1.25),
        **dict.fromkeys(("accuracy", "validation_accuracy"), 0.9999),
    )

    text = printed(State(0.0, "", True, [], [], run, Curves(), [], [], {}, []))

    assert f"about {left} left" in text
    assert f"held-out 99.99%  a round 1.25 s  elapsed {elapsed}\n" in text


def test_store_that_does_not_answer_is_no_reason_to_say_that_there_is_no_run() -> None:
    away = Source("store", "failed", "connection refused")

    text = printed(State(0.0, "", True, [away], [], None, Curves(), [], [], {}, []))

    assert text.startswith("no run is known: the store does not answer")


def test_top_as_json_is_what_the_page_answers(runs: Runs, gateway: FakeGateway, tmp_path: Path) -> None:
    begin(runs, gateway)

    found = json.loads(top(tmp_path, "--json", *runs.options, "--gateway", gateway.url).stdout)

    assert found["api"] == 1
    assert found["run"]["rounds_done"] == 1
    assert [lane["is_slow"] for lane in found["peers"]] == [False, True]


def test_hostile_name_is_no_command_to_the_terminal(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.metrics = 'localfaas_memory_limit_bytes{function_name="\x1b]0;mine\x07[red]x"} 1\n'

    done = top(tmp_path, "--once", "--gateway", gateway.url)

    assert "�]0;mine�[red]x" in done.stdout
    assert "\x1b" not in done.stdout


def test_top_on_a_terminal_goes_on_until_control_c(runs: Runs, gateway: FakeGateway, tmp_path: Path) -> None:
    begin(runs, gateway)
    words = [*runs.options, "--gateway", gateway.url, "--state-dir", tmp_path, "--runs-dir", "runs"]
    command = [sys.executable, "-m", "peer", "top", *words]
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=tmp_path,
        stdin=other,
        stdout=other,
        stderr=other,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
        # as in a terminal; a test run in the background of a shell ignores control-C, and so would this
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(other)
    shown = ""

    def read() -> str:
        nonlocal shown
        # EIO is how a terminal says that nobody has its other end open any more
        with suppress(OSError):
            while select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")
        return shown

    try:
        until(lambda: "round 1 of 20" in read())
        runs.write_round("digits", 0, 1, time=time.time())
        until(lambda: "round 2 of 20" in read())
        process.send_signal(signal.SIGINT)
        until(lambda: "\x1b[?1049l" in read())
        code = process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)

    assert code == 0
    assert "Traceback" not in shown
