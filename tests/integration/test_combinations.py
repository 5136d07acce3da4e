"""Which settings go together: each is run, and docs/combinations.md says what came of it."""

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
from harness import CHECKOUT, LocalPlatform, Runner

from peer.config import EXCHANGES
from peer.errors import ConfigurationError

pytestmark = pytest.mark.slow

PAGE = CHECKOUT / "docs" / "combinations.md"
CODECS = ("none", "fp16", "bf16", "int8", "qsgd:4", "topk:0.05", "sparseloco")
MODES: dict[str, dict[str, Any]] = {
    "a gradient a round": {"batches_per_round": 2, "batches_per_invocation": 1},
    "local steps": {"local_steps": 2, "batches_per_round": 2, "batches_per_invocation": 2},
}
PACES = {"in step": 0, "apart": 2}
SHORT = {"num_peers": 2, "rounds": 1, "batch_size": 8, "evaluate_every": 0, "checkpoint_every": 0}

Row = tuple[str, str, str, str]
ROWS: list[Row] = list(itertools.product(("functions", "local"), EXCHANGES, MODES, PACES))


@pytest.fixture(scope="module")
def runner(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(platform.surroundings(tmp_path_factory.mktemp("combinations")))


@pytest.fixture(scope="module")
def queueing(runner: Runner) -> Runner:
    return Runner(replace(runner.surroundings, invoke="async"))


@pytest.fixture(scope="module")
def weights_by_setting() -> dict[tuple[str, str], str]:
    """The weights that a codec and mode end with, whoever computes and exchanges, apart or not."""
    return {}


def documented() -> dict[Row, dict[str, str]]:
    """Return what the page says of each row: a codec's cell by its name."""
    found: dict[Row, dict[str, str]] = {}
    for line in PAGE.read_text().splitlines():
        cells = [re.sub(r"`", "", cell).strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 + len(CODECS) and cells[0] in ("functions", "local"):
            compute, exchange, mode, pace, *outcomes = cells
            found[compute, exchange, mode, pace] = dict(zip(CODECS, outcomes, strict=True))
    return found


def test_page_has_each_combination() -> None:
    assert list(documented()) == ROWS


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row).replace(" ", "_"))
def test_combination_is_what_the_page_says(
    runner: Runner, weights_by_setting: dict[tuple[str, str], str], row: Row, codec: str
) -> None:
    compute, exchange, mode, pace = row
    name = re.sub(r"[^a-z0-9]+", "-", "-".join([*row, codec]))
    settings = {**SHORT, **MODES[mode], "compute": compute, "exchange": exchange, "compression": codec}
    settings["staleness"] = PACES[pace]

    try:
        results = runner.train(name, **settings)
    except ConfigurationError as error:
        assert documented()[row][codec] == "refused"
        assert f'"{error}"' in PAGE.read_text()
        return

    assert documented()[row][codec] == "works"
    (weights,) = {result.weights.checksum for result in results}
    assert weights_by_setting.setdefault((codec, mode), weights) == weights


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_queue_gives_the_same_weights(
    queueing: Runner, weights_by_setting: dict[tuple[str, str], str], exchange: str, mode: str
) -> None:
    name = re.sub(r"[^a-z0-9]+", "-", f"queued-{exchange}-{mode}")

    results = queueing.train(name, **{**SHORT, **MODES[mode], "exchange": exchange})

    assert f"| `async` | `{exchange}` | {mode} | works |" in PAGE.read_text()
    (weights,) = {result.weights.checksum for result in results}
    assert weights_by_setting.setdefault(("none", mode), weights) == weights
