import importlib
import sys
from pathlib import Path

import pytest
import torch

from peer.errors import ConfigurationError, FunctionRefused
from peer.learning.flat import Layout
from peer.learning.models import BUILT_IN_MODELS, ModelInput, build, initialise, input_of
from peer.messages import ModelSpec

OWN_MODEL = """
from torch import nn

class Tiny(nn.Sequential):
    peerless_input = (3, 8, 8)

def make(num_classes, width=4):
    return Tiny(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, num_classes))

def three_dimensional(num_classes):
    return nn.Conv2d(1, num_classes, 3)

def no_model(num_classes):
    return num_classes
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "users_models.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_models", raising=False)
    importlib.invalidate_caches()
    return "users_models"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "vgg11" else [])
        for name in BUILT_IN_MODELS
        if name != "cnn"
    ],
)
def test_build_is_torchvisions_model_weight_by_weight(name: str) -> None:
    torchvision_models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    torch.manual_seed(3)
    ours = build(ModelSpec(name=name), 10)
    torch.manual_seed(3)
    theirs = getattr(torchvision_models, name)(num_classes=10)
    images = torch.randn(2, 3, 40, 40)

    expected, found = theirs.state_dict(), ours.state_dict()

    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert torch.equal(theirs.eval()(images), ours.eval()(images))


def test_build_cnn_has_the_documented_size() -> None:
    assert Layout.of(build(ModelSpec(name="cnn"), 10)).num_parameters == 421_642


def test_build_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown model 'alexnet': choose cnn, squeezenet1_1"):
        build(ModelSpec(name="alexnet"), 10)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cnn", {"width": 3}, "has no argument 'width': it has input_size, channels"),
        ("cnn", {"input_size": 30}, "a multiple of 4"),
        ("cnn", {"channels": "3"}, "is '3', not int"),
        ("cnn", {"channels": True}, "is True, not int"),
        ("vgg11", {"input_size": 16}, "take 32 to 1024"),
        ("vgg11", {"dropout": 1.5}, "out of range"),
        ("squeezenet1_1", {"input_size": 1 << 40}, "take 17 to 1024"),
        ("resnet18", {"input_size": "32"}, "input_size"),
    ],
)
def test_build_wrong_arguments_are_refused(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(ModelSpec(name=name, arguments=arguments), 10)


def test_build_model_that_is_not_allowed_is_refused_before_its_import(own_module: str) -> None:
    with pytest.raises(FunctionRefused, match="peerless_models, which has cnn"):
        build(ModelSpec(name=f"{own_module}:make"), 10, allowed={"cnn"})

    assert own_module not in sys.modules


def test_build_own_factory_gets_classes_and_arguments(own_module: str) -> None:
    spec = ModelSpec(name=f"{own_module}:make", arguments={"width": 6})

    model = build(spec, 7, allowed={spec.name})

    assert Layout.of(model).num_parameters == 192 * 6 + 6 + 6 * 7 + 7
    assert input_of(spec, model, (1, 28, 28)) == ModelInput(3, 8, 8)


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("missing", {}, "cannot be imported"),
        ("make", {"depth": 3}, "does not take"),
        ("no_model", {}, "returned int"),
    ],
)
def test_build_own_factory_that_does_not_fit_is_refused(
    own_module: str, factory: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(ModelSpec(name=f"{own_module}:{factory}", arguments=arguments), 10)


def test_initialise_model_without_logits_is_refused(own_module: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not logits of \(2, 10\)"):
        initialise(ModelSpec(name=f"{own_module}:three_dimensional"), 10, 1, (1, 8, 8))


def test_initialise_model_that_does_not_take_the_samples_is_refused(own_module: str) -> None:
    with pytest.raises(ConfigurationError, match="does not take images"):
        initialise(ModelSpec(name=f"{own_module}:three_dimensional"), 10, 1, (1, 1, 1))


def test_initialise_same_seed_gives_the_same_weights_and_leaves_torchs_state() -> None:
    spec = ModelSpec(name="cnn")
    torch.manual_seed(1)
    before = torch.get_rng_state()

    first, again, other = (initialise(spec, 10, seed, (1, 28, 28)) for seed in (4, 4, 5))

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_input_of_colour_samples_for_a_grey_model_says_what_to_change() -> None:
    spec = ModelSpec(name="cnn")

    with pytest.raises(ConfigurationError, match="channels=3"):
        input_of(spec, build(spec, 10), (3, 32, 32))

    colour = ModelSpec(name="cnn", arguments={"channels": 3, "input_size": 32})
    assert input_of(colour, initialise(colour, 10, 1, (3, 32, 32)), (3, 32, 32)) == ModelInput(3, 32, 32)
