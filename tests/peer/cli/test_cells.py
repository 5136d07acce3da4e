"""Cells as `peerless train` reads them: what is refused before anything is started, and what is skipped."""

import json
from pathlib import Path
from typing import Any

import pytest

from peer.cli.cells import plan
from peer.errors import ConfigurationError
from peer.experiments.matrix import Matrix
from peer.store.servers import free_port

Peerless = Any

ALL = ("serverless", "conventional", "ddp")


def test_plan_has_the_configuration_that_train_would_make() -> None:
    settings = {"batches-per-round": "all", "model-arguments": {"input_size": 20}, "no-adapt": True}

    planned = plan(Matrix(name="x", settings=settings, axes={"peers": [2, 12]}, variants=ALL, seeds=[7]))

    assert [each.config.num_peers for each in planned if each.config] == [2] * 3 + [12] * 3
    assert {each.cell.variant: each.config.compute for each in planned if each.config} == {
        "serverless": "functions",
        "conventional": "local",
        "ddp": "functions",
    }
    assert all(each.config.batches_per_round == 0 for each in planned if each.config)
    assert all(each.config.no_adapt and each.config.model.arguments for each in planned if each.config)
    assert not any(each.impossible for each in planned)


def test_plan_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERLESS_BATCH_SIZE", "17")

    (planned,) = plan(Matrix(name="x"))

    assert planned.config is not None
    assert planned.config.batch_size == 64


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch-sise": 64}, "did you mean batch-size"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 2.5}, "2.5"),
        ({"compression": "zip"}, "zip"),
        ({"compute": "local"}, "the variant decides"),
        ({"seed": 3}, "seeds"),
        ({"gateway": "http://127.0.0.1:1"}, "no option"),
        ({"epochs": 2}, "rounds"),
        ({"allocator": "jemalloc"}, "tuned, default"),
        ({"replicas": 0}, "above 0"),
        ({"replicas": "many"}, "above 0"),
    ],
)
def test_plan_of_a_setting_that_is_none_is_refused_by_its_name(settings: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        plan(Matrix(name="x", settings=settings))


def test_plan_of_an_allocator_that_functions_cannot_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"stack\.yml"):
        plan(Matrix(name="x", axes={"allocator": ["tuned", "default"]}))


def test_plan_says_which_cells_cannot_be_run_and_why() -> None:
    planned = plan(Matrix(name="x", axes={"exchange": ["all_gather", "in_function"]}, variants=ALL))

    impossible = {(each.cell.variant, each.cell.axes["exchange"]): each.impossible for each in planned}
    assert impossible["serverless", "in_function"] == impossible["conventional", "all_gather"] == ""
    assert "--compute local has none" in impossible["conventional", "in_function"]
    assert "plain DDP has no exchange" in impossible["ddp", "all_gather"]


def test_matrix_is_changed_by_options_and_by_the_environment(
    peerless: Peerless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERLESS_SET", "batch-size=16,32 variant=ddp")

    found = json.loads(peerless("experiment", "show", "smoke", "--json").out)
    typed = json.loads(peerless("experiment", "show", "smoke", "--json", "--set", "peers=3").out)

    assert [each["settings"]["batch-size"] for each in found["cells"]] == [16, 32]
    assert {each["settings"]["peers"] for each in typed["cells"]} == {3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "smokee"), "one of batch-size, compression"),
        (("run", "smoke", "--set", "peers"), "NAME=VALUE"),
        (("run", "smoke", "--set", "pears=2"), "did you mean peers"),
        (("show", "smoke", "--set", "peers=none"), "peers"),
    ],
)
def test_experiment_of_something_else_is_refused_in_one_line(
    peerless: Peerless, arguments: tuple[str, ...], says: str
) -> None:
    outcome = peerless("experiment", *arguments)

    assert outcome.code == 2
    assert says in outcome.said


def test_experiment_at_a_store_that_is_away_says_so_and_keeps_its_folder(
    peerless: Peerless, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    store = ("--store", nowhere, "--store-access-key", "k", "--gateway", nowhere)

    outcome = peerless("experiment", "run", "smoke", "--quick", "--output", tmp_path / "out", *store)

    assert outcome.code == 21
    assert nowhere in outcome.err
    assert (tmp_path / "out/smoke-quick/matrix.yaml").exists()


def test_list_names_presets_and_what_has_begun(peerless: Peerless) -> None:
    listing = json.loads(peerless("experiment", "list", "--json").out)

    assert {"smoke", "paper", "peers", "batch-size", "compression", "memory", "scaling"} <= set(
        listing["presets"]
    )
    assert listing["experiments"] == {}


def test_plan_without_a_cell_that_can_be_run_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no cell of x can be run"):
        plan(Matrix(name="x", settings={"exchange": "in_function"}, variants=("conventional",)))
