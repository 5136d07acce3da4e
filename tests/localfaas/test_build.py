"""The expected layout is what `faas-cli build --shrinkwrap` left for the same files."""

from pathlib import Path

import pytest

from localfaas.build import build_function
from localfaas.config import StatePaths
from localfaas.errors import ConfigurationError
from localfaas.images import ImageEntry, find_image
from localfaas.stack import load_stack

FILES = {
    "template/peerless/template.yml": "language: x\nfprocess: python index.py\npreload: [json, flask]\n",
    "template/peerless/index.py": "template",
    "template/peerless/Dockerfile": "FROM scratch",
    "template/peerless/function/__init__.py": "",
    "template/peerless/function/handler.py": "placeholder",
    "template/peerless/function/requirements.txt": "",
    "fn/handler.py": "mine",
    "fn/pkg/m.py": "helper",
    "fn/build/left-out": "x",
    "fn/template/left-out": "x",
    "common/sub/a.py": "shared",
    "stack.yml": "provider: {name: openfaas}\nconfiguration: {copy: [./common]}\n"
    "functions: {fn: {lang: peerless, handler: ./fn, image: 'reg/fn:1'}}\n",
}
LAYOUT = {
    "Dockerfile": "FROM scratch",
    "function/__init__.py": "",
    "function/common/sub/a.py": "shared",
    "function/handler.py": "mine",
    "function/pkg/m.py": "helper",
    "function/requirements.txt": "",
    "index.py": "template",
    "template.yml": FILES["template/peerless/template.yml"],
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    paths = StatePaths(tmp_path / "state")
    paths.create()
    return paths


def build(tmp_path: Path, paths: StatePaths) -> ImageEntry:
    stack = load_stack(tmp_path / "stack.yml", {})
    return build_function(stack, stack.functions["fn"], paths)


def test_build_function_layout_is_that_of_shrinkwrap(tmp_path: Path, paths: StatePaths) -> None:
    write(tmp_path, FILES)

    entry = build(tmp_path, paths)

    assert read(Path(entry.directory)) == LAYOUT
    assert entry == ImageEntry(
        "reg/fn:1", str(paths.build / "fn"), ("python", "index.py"), {}, ("json", "flask")
    )
    assert find_image(paths.images, "reg/fn:1") == entry
    assert find_image(paths.images, "reg/fn:2") is None


def test_build_function_again_leaves_nothing_of_the_old_build(tmp_path: Path, paths: StatePaths) -> None:
    write(tmp_path, FILES)
    build(tmp_path, paths)
    (tmp_path / "fn" / "pkg" / "m.py").unlink()

    entry = build(tmp_path, paths)

    assert read(Path(entry.directory)) == {name: text for name, text in LAYOUT.items() if "pkg" not in name}
    assert [path.name for path in paths.build.iterdir()] == ["fn"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("./fn, image", "./nowhere, image"), "is no folder"),
        (("copy: [./common]", "copy: [../outside]"), "is not inside"),
        (("copy: [./common]", "copy: [.]"), "is not inside"),
        (("lang: peerless", "lang: dockerfile"), "--runtime docker"),
        (("{fn: ", "{Fn_1: "), "function name 'Fn_1'"),
    ],
)
def test_build_function_impossible_says_why(
    tmp_path: Path, paths: StatePaths, change: tuple[str, str], message: str
) -> None:
    write(tmp_path, {**FILES, "stack.yml": FILES["stack.yml"].replace(*change)})
    stack = load_stack(tmp_path / "stack.yml", {})

    with pytest.raises(ConfigurationError, match=message):
        build_function(stack, next(iter(stack.functions.values())), paths)

    assert list(paths.images.iterdir()) == []
