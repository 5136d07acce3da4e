"""The page beside a real training: its values, and what a restart of the gateway does to it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Tab, open_tab
from harness import DATASET, LocalPlatform
from pages import StartPage, until
from playwright.sync_api import Browser

pytestmark = pytest.mark.slow


@contextmanager
def training(platform: LocalPlatform, directory: Path, rounds: int) -> Iterator[subprocess.Popen[bytes]]:
    """A training in processes of its own: peers are forked, which the browser's event loop does not bear."""
    command = [
        *(sys.executable, "-m", "peer", "train", "--run", "digits", "--dataset", DATASET, "--peers", "2"),
        *("--state-dir", platform.directory / "state", "--runs-dir", directory / "runs"),
        *("--rounds", rounds, "--batch-size", 16, "--evaluate-every", 2),
        *("--model-arguments", "{input_size: 20}"),
    ]
    with (directory / "training.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, cwd=directory
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def raw(value: object) -> str:
    """Return a value as a script writes it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value)


def differences(shown: dict[str, Any], told: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields whose value on the page is not the API's, as numbers."""
    wrong = {}
    for name, (value, _) in shown.items():
        expected = raw(told[name.removeprefix(prefix)])
        is_same = value == expected or (value and expected and float(value) == float(expected))
        if not is_same:
            wrong[name] = (value, expected)
    return wrong


def assert_same(tab: Tab) -> None:
    """Compare everything that the page shows with the API at that very state."""
    found = tab.values()
    state = found["state"]
    run = {name: pair for name, pair in found["run"].items() if name.startswith("run.")}
    assert len(run) >= 8
    assert differences(run, state["run"], "run.") == {}
    for kind, key in (("functions", "name"), ("invocations", "function"), ("peers", "peer")):
        told = {str(entry[key]): entry for entry in state[kind]}
        assert found[kind].keys() == told.keys()
        for name, values in found[kind].items():
            plain = {field: pair for field, pair in values.items() if field != "errors_by_code"}
            assert differences(plain, told[name]) == {}, name


def test_page_beside_a_training_shows_it_and_survives_a_restart_of_the_gateway(
    browser: Browser, start_page: StartPage, mortal_platform: LocalPlatform, tmp_path: Path
) -> None:
    state_dir = mortal_platform.directory / "state"
    page = start_page("--state-dir", state_dir)
    tab = open_tab(browser, page.url)

    with training(mortal_platform, tmp_path, rounds=400) as process:
        rounds: list[str] = []

        def another_round() -> bool:
            assert process.poll() is None, (tmp_path / "training.log").read_text()
            shown = tab.values()["run"].get("run.rounds_done", ["", ""])[0]
            if shown not in ("", "0") and shown not in rounds:
                rounds.append(shown)
            return len(rounds) >= 4

        until(another_round)
        assert_same(tab)
        assert [int(number) for number in rounds] == sorted(map(int, rounds))

        mortal_platform.kill("gateway")
        until(lambda: "is the gateway running?" in tab.text("#findings"))
        assert "stale" in (tab.page.locator("#functions").get_attribute("class") or "")
        mortal_platform.up()
        until(lambda: tab.text("#sources li[data-source=gateway]") and "gateway" not in tab.text("#findings"))
        rounds.clear()
        until(another_round)

    until(lambda: tab.text("#run-status") == "stopped")
    assert_same(tab)
    shown = tab.values()
    assert shown["run"]["run.loss"][1] == f"{shown['state']['run']['loss']:.4f}"
    assert shown["run"]["run.accuracy"][1] == f"{shown['state']['run']['accuracy']:.2%}"
    limit = shown["state"]["functions"][-1]["limit_bytes"]
    assert shown["functions"]["gradient"]["limit_bytes"][1] == f"limit {limit / (1 << 30):g} GiB"
    assert {"aggregate", "evaluate", "gradient"} <= shown["functions"].keys()
    assert tab.errors == []
    assert "Traceback" not in page.log
