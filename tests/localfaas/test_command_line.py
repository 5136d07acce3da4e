"""What a person at a shell sees: exit codes, one line an error, no traceback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "localfaas", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("build",), 2, "cannot read"),
        (("build", "-f", "nothing.yml"), 2, "nothing.yml"),
        (("build", "--state-dir", "a-file"), 2, "a-file"),
        (("serve", "--port", "0", "--state-dir", "a-file"), 2, "a-file"),
        (("serve", "--port", "70000"), 2, "--port"),
        (("serve", "--memory-enforcement", "hope"), 2, "rlimit"),
        (("serve", "--host", "192.0.2.1"), 2, "cannot listen at 192.0.2.1"),
        (("deploy", "-f", "good.yml"), 2, "basic-auth-password"),
        (
            ("deploy", "-f", "good.yml", "--password-file", "a-file", "--gateway", "http://127.0.0.1:9"),
            3,
            "no gateway",
        ),
    ],
)
def test_command_with_bad_input_says_what_is_wrong(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "good.yml").write_text("provider: {name: openfaas}\nfunctions: {fn: {image: a}}\n")

    done = run(tmp_path, *arguments)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_deploy_with_a_wrong_password_is_refused(
    make_gateway: Callable[..., Any], project: Any, tmp_path: Path
) -> None:
    project.add("probe")
    gateway = make_gateway()
    (tmp_path / "wrong").write_text("x")

    done = gateway.run("deploy", "--gateway", gateway.url, "--password-file", str(tmp_path / "wrong"))

    assert done.returncode == 3
    assert "(401)" in done.stderr


def test_deploy_of_what_was_not_built_names_the_command(
    make_gateway: Callable[..., Any], project: Any
) -> None:
    project.add("probe")
    gateway = make_gateway()

    done = gateway.run("deploy", "--gateway", gateway.url)

    assert done.returncode == 3
    assert "localfaas build" in done.stderr


def test_build_with_a_filter_builds_only_what_matches(project: Any) -> None:
    project.add("one")
    project.add("two", skip_build="true")

    done = run(project.directory, "build", "--filter", "o*")
    skipped = run(project.directory, "build", "--filter", "two")

    assert done.stdout.startswith("one built as test/one:latest in ")
    assert len(done.stdout.splitlines()) == 1
    assert skipped.stdout == "two is skipped\n"


@pytest.mark.parametrize("name", ["stack.yml", "stack.yaml"])
def test_build_takes_the_stack_file_that_is_there(project: Any, name: str) -> None:
    project.add("fn")
    (project.directory / "stack.yml").rename(project.directory / name)

    done = run(project.directory, "build")

    assert done.stdout.startswith("fn built as test/fn:latest in "), done.stderr


def test_build_takes_stack_yaml_of_two_as_faas_cli_does(project: Any) -> None:
    project.add("fn")
    text = "provider: {name: openfaas}\nfunctions: {other: {image: a, skip_build: true}}\n"
    (project.directory / "stack.yaml").write_text(text)

    done = run(project.directory, "build")

    assert done.stdout == "other is skipped\n"


@pytest.mark.parametrize(
    "command",
    ["", "serve", "build", "deploy", "image add", "image list", "image remove"],
)
def test_help_shows_an_example_on_a_line_of_its_own(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *command.split(), "--help")

    assert done.returncode == 0
    examples = done.stdout.partition("Example")[2].splitlines()
    assert any(line.startswith(f"    localfaas {command}") for line in examples), done.stdout


def test_damaged_record_stops_the_start_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "state" / "functions").mkdir(parents=True)
    (tmp_path / "state" / "functions" / "fn.json").write_text("{")

    done = run(tmp_path, "serve", "--port", "0", "--state-dir", "state")

    assert done.returncode == 2
    assert "fn.json is damaged" in done.stderr
    assert "Traceback" not in done.stderr
