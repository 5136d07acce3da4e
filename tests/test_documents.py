"""The documents say what is so: commands, exit codes, keys, messages, links and the tests they name."""

import ast
import inspect
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from localfaas.cli import cli as localfaas_cli
from peer import config, errors, messages
from peer.cli.main import cli as peerless_cli
from peer.cli.settings import check_environment
from peer.store import keys

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "data", "deploy")
DOCUMENTS = sorted(
    [*CHECKOUT.glob("*.md"), *(path for name in FOLDERS for path in (CHECKOUT / name).rglob("*.md"))]
)
README = CHECKOUT / "README.md"
PROTOCOL = CHECKOUT / "PROTOCOL.md"
PROGRAMS = {"peerless": peerless_cli, "localfaas": localfaas_cli}
ELSEWHERE = r"/work/|/root/|/tmp/|/home/\w|\bshared/|DESIGN\.md|STYLE\.md|TODO|FIXME"


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each command that a document shows, in its shell blocks or in backticks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        if re.match(rf"\s*(\.venv/bin/)?({'|'.join(PROGRAMS)})\s", line):
            words = shlex.split(line, comments=True)
            yield [Path(words[0]).name, *(word for word in words[1:] if word not in ("…", "&"))]


def unknown_words(words: list[str]) -> list[str]:
    """Return the command or the options that the program of a command line does not have."""
    command: click.Command = PROGRAMS[words[0]]
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return rest[:1]
        command = command.commands[rest.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"}
    return [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]


def rows(text: str, num_columns: int) -> Iterator[list[str]]:
    """Yield the cells of every table row that has this many."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == num_columns and not set(line) <= set("|- "):
            yield cells


def error_classes() -> list[type[errors.PeerlessError]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [kind for kind in found if issubclass(kind, errors.PeerlessError)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_document_commands_exist_with_their_options(document: Path) -> None:
    lines = list(command_lines(document.read_text()))

    assert {" ".join(words): unknown for words in lines if (unknown := unknown_words(words))} == {}


def test_commands_of_the_readme_are_many_and_a_wrong_one_is_seen() -> None:
    assert len(list(command_lines(README.read_text()))) > 25
    assert unknown_words(["peerless", "trian"]) == ["trian"]
    assert unknown_words(["peerless", "data", "push", "mnist", "--dry-run"]) == ["--dry-run"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_document_options_in_prose_exist(document: Path) -> None:
    programs = [command for root in PROGRAMS.values() for command in all_commands(root)]
    known = {name for command in programs for parameter in command.params for name in parameter.opts}
    known |= {"--help"}
    of_other_programs = {"--dev", "--keep", "--without-minio", "--shrinkwrap", "--password-stdin"}
    named = set(re.findall(r"`(--[a-z][a-z-]*)[`\s=]", document.read_text()))

    assert named - known - of_other_programs == set()


def all_commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from all_commands(subcommand)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_document_relative_links_resolve(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_document_paths_of_the_tree_exist(document: Path) -> None:
    folders = "peer|localfaas|tests|scripts|functions|template|benchmarks|docs|data|deploy"
    text = re.sub(r"(https?:|runs/|~/)\S*", "", document.read_text())
    named = set(re.findall(rf"(?<![\w/.-])(?:{folders})/[\w/.-]*\w", text))

    assert [path for path in named if not (CHECKOUT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_document_names_every_test_as_it_is(document: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text())

    assert [(path, test) for path, test in named if test not in functions_of(CHECKOUT / path)] == []


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_document_stands_alone(document: Path) -> None:
    text = document.read_text()

    assert re.findall(ELSEWHERE, text) == []
    is_made = document.name == "report.md"  # of `peerless experiment report`, with tables as wide as need be
    assert is_made or max(map(len, text.splitlines())) <= 400


def test_failure_table_names_a_test_in_each_row() -> None:
    section = PROTOCOL.read_text().partition("## Failures")[2].partition("## ")[0]
    table = list(rows(section, 4))[1:]

    assert len(table) >= 20
    assert [cells[0] for cells in table if "::test_" not in cells[3]] == []


def test_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    section = README.read_text().partition("## Exit codes")[2].partition("## ")[0]
    documented = {
        (kind, int(code))
        for codes, kinds, _meaning, _again in list(rows(section, 4))[1:]
        for kind in re.findall(r"`(\w+)`", kinds)
        for code in re.findall(r"\d+", codes)
    }
    retried = {
        kind
        for _codes, kinds, _meaning, again in list(rows(section, 4))[1:]
        for kind in (re.findall(r"`(\w+)`", again) or (re.findall(r"`(\w+)`", kinds) if again else []))
    }
    stop = {("StopRequested", 130), ("StopRequested", 143)}
    expected = {
        (kind.__name__, kind.exit_code) for kind in error_classes() if kind is not errors.StopRequested
    }

    assert documented == expected | stop
    assert retried == {kind.__name__ for kind in error_classes() if kind.retryable}


def test_readme_has_exactly_two_commands_to_begin() -> None:
    (first, *_) = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.M | re.S)
    begun = [line.split()[0] for line in first.splitlines()]

    assert begun == ["./scripts/quickstart.sh", "./scripts/test.sh"]
    assert all(os.access(CHECKOUT / script, os.X_OK) for script in begun)


def test_environment_variables_of_the_readme_are_read_by_something() -> None:
    named = set(re.findall(r"\bPEERLESS_[A-Z_]*[A-Z]\b", README.read_text()))

    check_environment(peerless_cli, dict.fromkeys(named, ""))

    assert len(named) > 10


def test_options_can_be_set_as_the_readme_says() -> None:
    options = [
        parameter
        for command in all_commands(peerless_cli)
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name != "version"
    ]
    long_names = [next(name for name in option.opts if name.startswith("--")) for option in options]
    expected = ["PEERLESS_" + name.removeprefix("--").replace("-", "_").upper() for name in long_names]

    assert [option.envvar for option in options] == expected


def test_keys_of_the_protocol_are_those_that_are_built() -> None:
    section = PROTOCOL.read_text().partition("## Keys")[2].partition("## ")[0]
    documented = {pattern for cells in rows(section, 4) for pattern in re.findall(r"^`([^`]+)`$", cells[0])}
    sample = {
        "dataset": "D",
        "split": "S",
        "order": "O",
        "run": "R",
        "sha256": "H",
        "identity": "I",
        "call": "C",
    } | {
        name: str(number)
        for number, name in enumerate(
            ["generation", "round", "peer", "invocation", "attempt", "part"], start=1
        )
    }
    built = {
        keys.dataset_part("D", "S", "O", 6).replace("000006", "6"),
        keys.dataset_manifest("D"),
        keys.profile("I"),
        keys.run_config("R"),
        keys.run_summary("R"),
        keys.probe("R", 6),
        keys.reply("R", "C"),
        keys.weights("R", "H"),
        keys.gradient("R", 1, 2, 3, 4, "5"),
        keys.exchange("R", 1, 2, 3, 6),
        keys.reduced("R", 1, 2, 3, "5"),
        keys.reduced_manifest("R", 1, 2, 3),
        keys.peer_manifest("R", 1, 2, 3),
        keys.meeting("R", 1, 2, 3, 6),
        keys.meeting_manifest("R", 1, 2, 3),
        keys.checkpoint("R", 2, "shared"),
        keys.checkpoint("R", 2, "manifest.json"),
        keys.residual("R", 2, 3),
        keys.residual_manifest("R", 2, 3),
        keys.member("R", 3),
    }

    assert {re.sub(r"<(\w+)>", lambda match: sample[match[1]], pattern) for pattern in documented} == built


@pytest.mark.parametrize(
    "kind",
    [
        *(
            value
            for value in vars(messages).values()
            if inspect.isclass(value) and issubclass(value, msgspec.Struct)
        ),
        config.RunConfig,
        config.PlateauSpec,
        config.EarlyStopSpec,
    ],
    ids=lambda kind: kind.__name__,
)
def test_protocol_names_every_field_of_a_message(kind: type[msgspec.Struct]) -> None:
    text = PROTOCOL.read_text().partition("## Messages")[2]

    assert [name for name in kind.__struct_fields__ if f"`{name}`" not in text] == []


def test_every_decision_is_in_the_index() -> None:
    folder = CHECKOUT / "docs" / "decisions"
    index = (folder / "README.md").read_text()

    assert [
        page.name
        for page in folder.glob("*.md")
        if page.name != "README.md" and f"({page.name})" not in index
    ] == []


def test_every_dependency_that_is_used_has_its_reason() -> None:
    page = (CHECKOUT / "docs/decisions/dependencies.md").read_text()
    project = (CHECKOUT / "pyproject.toml").read_text()
    block = project.partition("\ndependencies = [")[2].partition("\n]")[0]
    declared = set(re.findall(r'"([a-z0-9-]+)', block))
    first_column = " ".join(cells[0] for cells in list(rows(page, 3))[1:])
    documented = set(re.findall(r"[a-z0-9-]+", re.sub(r"`[^`]*`|\([^)]*\)", "", first_column)))
    sources = " ".join(
        path.read_text()
        for folder in ("peer", "localfaas", "template")
        for path in (CHECKOUT / folder).rglob("*.py")
    )
    used = {
        name for name in declared if re.search(rf"\b{name.removeprefix('py').replace('-', '_')}\b", sources)
    }

    assert len(used) > 10
    assert used <= documented <= declared
