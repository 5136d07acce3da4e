"""localfaas where nothing of training is installed: no torch, torchvision or numpy, and no `peer`."""

import ast
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from localfaas.deploy import GatewayClient

REPOSITORY = Path(__file__).parents[2]
OF_TRAINING = ("torch", "torchvision", "numpy", "peer")
# In every interpreter, before anything else: the imports fail, and both are written down.
BLOCKER = f"""
import json, sys

def note(*words):
    with open(NOTES, "a") as file:
        file.write(json.dumps(words) + "\\n")

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OF_TRAINING!r}:
            note("import", name)
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Blocker())
note("start", *sys.orig_argv)
"""
ASKS_FOR_TORCH = """
def handle(event, context):
    try:
        import torch
    except ImportError as error:
        return str(error)
"""


def imported_distributions() -> set[str]:
    """Return what localfaas and its template import, as names of distributions."""
    modules = set()
    for folder in ("localfaas", "template"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    modules.add(str(node.module).partition(".")[0])
    own = {"localfaas", "function", *sys.stdlib_module_names}
    known = packages_distributions()
    return {canonicalize_name(known[module][0]) for module in modules - own}


def closure(requirement: Requirement, found: set[str]) -> None:
    """Add to `found` what installing a requirement installs."""
    name = canonicalize_name(requirement.name)
    found.add(name)
    for each in map(Requirement, requires(name) or []):
        environments = [{"extra": extra} for extra in (requirement.extras or {""})]
        is_wanted = each.marker is None or any(map(each.marker.evaluate, environments))
        if is_wanted and canonicalize_name(each.name) not in found:
            closure(each, found)


def test_readme_lists_all_that_localfaas_needs_and_nothing_of_training() -> None:
    (listed,) = re.findall(r"^pip install (a2wsgi.*)$", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {Requirement(each).name for each in project["dependencies"]}

    requirements = [Requirement(word) for word in shlex.split(listed)]
    installed: set[str] = set()
    for requirement in requirements:
        closure(requirement, installed)

    assert imported_distributions() <= installed
    assert installed.isdisjoint(OF_TRAINING)
    assert {requirement.name for requirement in requirements} <= declared


@pytest.mark.slow
def test_functions_of_template_and_program_are_built_deployed_and_called(
    make_gateway: Callable[..., Any], project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "sitecustomize.py").write_text(f"NOTES = {str(notes)!r}\n{BLOCKER}")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path / "blocker"), os.environ.get("PYTHONPATH", "")])
    )
    # The template as it is shipped, with what it preloads where it is there.
    template = Path("template", "peerless", "template.yml")
    shutil.copy(REPOSITORY / template, project.directory / template)
    project.add("probe", ASKS_FOR_TORCH)
    gateway = make_gateway()

    for command in ("build", "deploy"):
        options = ["--gateway", gateway.url, "--wait", "60"] if command == "deploy" else []
        done = gateway.run(command, "-f", "stack.yml", *options)
        assert done.returncode == 0, done.stderr
    gateway.run("image", "add", "my/cat", "--command", "cat")
    gateway.system("POST", "functions", json={"service": "cat", "image": "my/cat"})
    GatewayClient(gateway.url, gateway.state_dir / "basic-auth-password").wait_available("cat", 60)

    assert gateway.call("probe").text == "torch is not installed here"
    assert gateway.call("cat", b"abc").text == "abc"
    assert gateway.metric("gateway_function_invocation_total") == 2
    assert gateway.stop() == 0
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    started = [" ".join(words) for kind, *words in lines if kind == "start"]
    for part in ("localfaas serve", "localfaas build", "localfaas deploy", "warm_parent.py"):
        assert any(part in command for command in started), f"{part} was not held to it"
    tried = {name for kind, name, *_ in lines if kind == "import"}
    assert tried == {"peer", "torch"}, "what the template preloads, and the function's own"
    assert "cannot preload peer.learning.warm" in gateway.errors
