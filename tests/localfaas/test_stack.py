"""Expected values are what faas-cli 0.17 sent for the same file."""

from pathlib import Path

import pytest

from localfaas.errors import ConfigurationError
from localfaas.stack import load_stack, substitute_environment

STACK = r"""
version: 1.0
provider:
  name: openfaas
  gateway: ${GATEWAY_FOR_TEST:-http://127.0.0.1:18999}
x-env: &env
  A: 1e3
functions:
  fn:
    lang: mine
    handler: ./fn
    image: ${REGISTRY_FOR_TEST:-reg}/fn:latest
    environment:
      <<: *env
      flag: true
      num: 0x10
      empty:
      quoted: "a:b"
      dollar: $$HOME
      bare: $HOME
      nul: null
      tilde: ~
      d: 2001-01-01
      plus: ${NOPE_FOR_TEST:+x}
      eq: ${NOPE_FOR_TEST=y}
      path: a\\b
    environment_file: [env.yml]
    labels: {com.openfaas.scale.min: 2, b: false}
    annotations: {topic: x}
    limits: {memory: 100Mi, cpu: 500m}
    requests: {memory: 50Mi}
    constraints: ["a=b"]
    secrets: [s1]
    readonly_root_filesystem: true
  other:
    image: x/y:1
    skip_build: true
    fprocess: "node a.js"
"""


@pytest.fixture
def stack_path(tmp_path: Path) -> Path:
    (tmp_path / "template" / "mine").mkdir(parents=True)
    (tmp_path / "template" / "mine" / "template.yml").write_text(
        "language: mine\nfprocess: python index.py\n"
    )
    (tmp_path / "env.yml").write_text('environment:\n  from_file: "2"\n  flag: file\n')
    path = tmp_path / "stack.yml"
    path.write_text(STACK)
    return path


def test_deployment_of_full_function_is_what_faas_cli_sends(stack_path: Path) -> None:
    stack = load_stack(stack_path, {})

    assert stack.gateway == "http://127.0.0.1:18999"
    assert stack.functions["fn"].deployment() == {
        "service": "fn",
        "image": "reg/fn:latest",
        "envProcess": "python index.py",
        "envVars": {
            "A": "1e3",
            "bare": "$HOME",
            "d": "2001-01-01",
            "dollar": "$HOME",
            "empty": "",
            "eq": "y",
            "flag": "file",
            "from_file": "2",
            "nul": "",
            "num": "0x10",
            "path": "a\\b",
            "plus": "x",
            "quoted": "a:b",
            "tilde": "",
        },
        "labels": {"b": "false", "com.openfaas.scale.min": "2"},
        "annotations": {"topic": "x"},
        "limits": {"cpu": "500m", "memory": "100Mi"},
        "requests": {"memory": "50Mi"},
        "constraints": ["a=b"],
        "secrets": ["s1"],
        "readOnlyRootFilesystem": True,
    }


def test_deployment_of_image_only_leaves_out_what_is_unset(stack_path: Path) -> None:
    deployment = load_stack(stack_path, {}).functions["other"].deployment()

    assert deployment == {
        "service": "other",
        "image": "x/y:1",
        "envProcess": "node a.js",
        "labels": {},
        "annotations": {},
    }


def test_load_stack_with_environment_substitutes_it(stack_path: Path) -> None:
    environment = {"GATEWAY_FOR_TEST": "http://elsewhere", "REGISTRY_FOR_TEST": "ghcr.io/me"}

    stack = load_stack(stack_path, environment)

    assert (stack.gateway, stack.functions["fn"].image) == ("http://elsewhere", "ghcr.io/me/fn:latest")


def test_filtered_pattern_keeps_matching_functions(stack_path: Path) -> None:
    stack = load_stack(stack_path, {})

    assert list(stack.filtered("o*").functions) == ["other"]
    with pytest.raises(ConfigurationError, match="fn, other"):
        stack.filtered("nothing")


@pytest.mark.parametrize("text", ["${A:1:2}", "${A", "${A//x/y}", "${A:-${B}}"])
def test_substitute_environment_unknown_operator_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot substitute"):
        substitute_environment(text, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a: [", "no YAML"),
        ("provider: {name: other}", "has to be 'openfaas'"),
        ("provider: {name: openfaas}\nfunctions: [a]", "functions has to be a mapping"),
        ("provider: {name: openfaas}\nfunctions: {a: {lang: x}}", "a has no image"),
        ("provider: {name: openfaas}\nfunctions: {a: {lang: x, image: y}}", "template 'x' not found"),
    ],
)
def test_load_stack_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "stack.yml"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=message):
        load_stack(path, {})
