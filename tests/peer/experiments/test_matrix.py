"""Matrices: what they ask for, in which order, and what is refused."""

from pathlib import Path

import pytest

from peer.errors import ConfigurationError
from peer.experiments import matrix
from peer.experiments.matrix import Cell, Matrix

GRID = """
name: grid
settings: {rounds: 2, model: cnn}
axes: {batch-size: [64, 128], peers: [1, 2]}
variants: [serverless, conventional]
per-variant: {conventional: {instance: t2.medium}}
repeats: 2
seeds: [7]
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "matrix.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_cells_of_a_grid_are_every_point_by_every_variant_in_every_repeat(write) -> None:
    found = matrix.cells(matrix.load(write(GRID)))

    points = {(cell.axes["batch-size"], cell.axes["peers"]) for cell in found}
    assert points == {(64, 1), (64, 2), (128, 1), (128, 2)}
    assert len(found) == len({cell.id for cell in found}) == 4 * 2 * 2
    assert len({cell.config_hash for cell in found}) == 4 * 2
    assert {cell.seed for cell in found} == {7}
    assert {cell.settings.get("instance") for cell in found if cell.variant == "conventional"} == {
        "t2.medium"
    }
    assert {cell.settings.get("instance") for cell in found if cell.variant == "serverless"} == {None}


def test_cells_stand_with_variants_side_by_side_and_repeats_outermost(write) -> None:
    found = matrix.cells(matrix.load(write(GRID)))

    pairs = [found[at : at + 2] for at in range(0, len(found), 2)]
    assert all(one.axes == other.axes and one.repeat == other.repeat for one, other in pairs)
    assert [cell.repeat for cell in found] == [1] * 8 + [2] * 8
    firsts = [pair[0].variant for pair in pairs]
    assert firsts[:4] == ["serverless", "conventional"] * 2
    assert firsts[4:] == ["conventional", "serverless"] * 2


def test_cells_of_cases_take_each_case_with_each_point(write) -> None:
    cases = "cases: [{model: cnn}, {model: vgg11, model-arguments: {dropout: 0.0}}]"

    found = matrix.cells(matrix.load(write(f"name: x\n{cases}\naxes: {{batch-size: [1, 2]}}")))

    assert [(cell.axes["model"], cell.axes["batch-size"]) for cell in found] == [
        ("cnn", 1), ("cnn", 2), ("vgg11", 1), ("vgg11", 2),
    ]  # fmt: skip
    assert found[3].settings["model-arguments"] == {"dropout": 0.0}


def test_warm_up_is_one_cell_a_variant_before_all_others(write) -> None:
    found = matrix.cells(matrix.load(write(GRID + "warm-up: true")))

    assert [(cell.variant, cell.repeat) for cell in found[:2]] == [("serverless", 0), ("conventional", 0)]
    assert {cell.repeat for cell in found[2:]} == {1, 2}


def test_quick_merges_settings_and_has_a_name_of_its_own(write) -> None:
    text = GRID + "quick: {settings: {rounds: 1}, axes: {peers: [2]}, repeats: 1}"

    found = matrix.load(write(text), is_quick=True)

    assert (found.name, found.repeats, found.settings) == ("grid-quick", 1, {"rounds": 1, "model": "cnn"})
    assert found.axes == {"peers": [2]}


def test_cells_of_a_case_with_values_of_its_own_for_an_axis_take_these(write) -> None:
    cases = "cases: [{model: cnn}, {model: vgg11, batch-size: [2, 3]}, {model: resnet18, batch-size: 4}]"
    text = f"name: x\n{cases}\naxes: {{batch-size: [1, 2], peers: [1, 4]}}"

    found = {
        (cell.settings["model"], cell.axes["batch-size"], cell.axes["peers"])
        for cell in matrix.cells(matrix.load(write(text)))
    }

    sizes = {"cnn": (1, 2), "vgg11": (2, 3), "resnet18": (4,)}
    assert found == {(model, size, peers) for model in sizes for size in sizes[model] for peers in (1, 4)}


def test_overrides_replace_settings_axes_and_what_cases_say(write) -> None:
    text = GRID + "cases: [{learning-rate: 0.1, model: cnn}, {learning-rate: 0.2, model: cnn}]"

    found = matrix.load(
        write(text), overrides={"peers": "3", "learning-rate": "0.5", "rounds": "1,2", "variant": "ddp"}
    )

    assert found.axes == {"batch-size": [64, 128], "peers": [3], "rounds": [1, 2]}
    assert (found.settings, found.cases) == ({"model": "cnn", "learning-rate": 0.5}, [{"model": "cnn"}])
    assert found.variants == ("ddp",)


def test_frozen_matrix_is_read_as_the_same(write, tmp_path: Path) -> None:
    found = matrix.load(write(GRID))
    (tmp_path / "frozen.yaml").write_bytes(matrix.frozen(found))

    assert matrix.load(str(tmp_path / "frozen.yaml")) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nrepeat: 2", "unknown field `repeat`.*the keys are .*repeats"),
        ("name: x\naxes: {peers: 4}", "peers|axes"),
        ("name: x\naxes: {peers: []}", "no value"),
        ("name: x\nvariants: [lambda]", "serverless, conventional, ddp"),
        ("name: ../x", "no folder's name"),
        ("name: x\nrepeats: 0", "at least 1"),
        ("name: x\ntimeout: 0", "above 0"),
        ("name: x\nquick: 3", "quick"),
        ("- a\n- b", "holds a list"),
        ("name: [", "not YAML"),
        ("question: none", "name"),
    ],
)
def test_matrix_that_makes_no_sense_is_refused_by_its_key(write, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        matrix.load(write(text))


def test_matrix_that_is_not_there_names_the_presets() -> None:
    with pytest.raises(ConfigurationError, match="smoke"):
        matrix.load("no-such-preset")


def test_ddp_is_unsuited_where_something_varies_that_it_has_not() -> None:
    asked = Matrix(name="x")

    assert "compression" in matrix.unsuited(Cell("ddp", {"compression": "fp16"}, {}, 1, 0), asked)
    assert matrix.unsuited(Cell("ddp", {"peers": 4}, {"compression": "fp16"}, 1, 0), asked) == ""
    assert matrix.unsuited(Cell("serverless", {"compression": "fp16"}, {}, 1, 0), asked) == ""


@pytest.mark.parametrize("name", matrix.presets())
@pytest.mark.parametrize("is_quick", [False, True])
def test_preset_is_a_matrix_of_its_name(name: str, is_quick: bool) -> None:
    found = matrix.load(name, is_quick=is_quick)

    assert found.name == (f"{name}-quick" if is_quick else name)
    assert found.question
    assert matrix.cells(found)
