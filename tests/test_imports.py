"""Who may import whom (ARCHITECTURE.md), and what is never done to bytes that came from elsewhere."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
# what runs inside a function: its image holds all of `peer`, but only this much may be imported there
FUNCTION_SIDE = (
    "peer.aggregation",
    "peer.compression",
    "peer.errors",
    "peer.learning",
    "peer.messages",
    "peer.store",
)
RUNS_WHAT_IT_READS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((CHECKOUT / folder).rglob("*.py"))]
    assert found
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` of a name or an attribute, an empty string of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of whatever runs what it reads, or trusts whom it should not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [str(node.module)]
            if {module.partition(".")[0] for module in modules} & RUNS_WHAT_IT_READS:
                yield node.lineno, f"import of {', '.join(modules)}"
            if (
                isinstance(node, ast.ImportFrom)
                and is_within(str(node.module), ("torch",))
                and "load" in names
            ):
                yield node.lineno, f"from {node.module} import load"
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            is_torch_load = called.startswith("torch.") and called.endswith(".load")
            if called in {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load"} or is_torch_load:
                yield node.lineno, called
            for keyword in node.keywords:
                constant = getattr(keyword.value, "value", None)
                if (keyword.arg, constant) in {("shell", True), ("verify", False), ("allow_pickle", True)}:
                    yield node.lineno, f"{keyword.arg}={constant}"
        elif isinstance(node, ast.Attribute) and node.attr in {"CERT_NONE", "_create_unverified_context"}:
            yield node.lineno, node.attr


def importing(paths: list[Path], is_forbidden: Callable[[str], bool]) -> list[str]:
    """Return `file imports module` for each forbidden import."""
    return [
        f"{name_of(path)} imports {module}"
        for path in paths
        for module in imported(path)
        if is_forbidden(module)
    ]


def is_peers_own(module: str) -> bool:
    # `from peer import errors` names the package as well as the module
    return module != "peer" and is_within(module, ("peer",)) and not is_within(module, FUNCTION_SIDE)


def test_handlers_import_only_the_function_side_of_peer() -> None:
    assert importing(sources("functions"), is_peers_own) == []


def test_function_side_of_peer_never_imports_the_peers_own_side() -> None:
    assert importing(sources("peer/compression", "peer/learning", "peer/store"), is_peers_own) == []
    shared = [CHECKOUT / f"peer/{name}.py" for name in ("aggregation", "errors", "messages")]
    assert importing(shared, is_peers_own) == []


def test_localfaas_and_template_import_neither_peer_nor_torch_nor_numpy() -> None:
    assert (
        importing(sources("localfaas", "template"), lambda m: is_within(m, ("peer", "torch", "numpy"))) == []
    )


def test_peer_and_functions_never_import_localfaas() -> None:
    assert importing(sources("peer", "functions"), lambda m: is_within(m, ("localfaas",))) == []


def test_sources_neither_run_what_they_read_nor_trust_blindly() -> None:
    found = [
        f"{name_of(path)}:{line}: {text}"
        for path in sources("peer", "localfaas", "functions", "template")
        for line, text in dangers(ast.parse(path.read_text()))
    ]

    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import torch; torch.load(f)",
        "import torch; torch.jit.load(f)",
        "from torch import load",
        "eval(text)",
        "exec(text)",
        "subprocess.run(command, shell=True)",
        "requests.get(url, verify=False)",
        "numpy.load(path, allow_pickle=True)",
        "context.verify_mode = ssl.CERT_NONE",
        "os.system(command)",
    ],
)
def test_dangers_of_a_forbidden_line_are_seen(line: str) -> None:
    assert list(dangers(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["model.eval()", "import pickletools", "json.load(f)", "layout.load(model, state)"]
)
def test_dangers_of_a_harmless_likeness_are_none(line: str) -> None:
    assert not list(dangers(ast.parse(line)))
