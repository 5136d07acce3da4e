"""What is shipped with the page: the plot library as it was published, and every file in the wheel."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
STATIC = CHECKOUT / "peer" / "dashboard" / "static"
# uPlot 1.6.32 of npm, its files dist/uPlot.iife.min.js, dist/uPlot.min.css and LICENSE
VENDORED = {
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def test_plot_library_is_what_was_published() -> None:
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (STATIC / "vendor").iterdir()
    }

    assert found == VENDORED


def test_files_name_nothing_from_elsewhere() -> None:
    own = [path for path in STATIC.rglob("*") if path.is_file() and "vendor" not in path.parts]

    addresses = {
        path.name: re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())
        for path in own
        if path.suffix in (".html", ".css", ".js")
    }

    assert {name: found for name, found in addresses.items() if set(found) - {"http://www.w3.org"}} == {}
    assert len(addresses) > 10


def test_scripts_make_no_markup_of_text() -> None:
    scripts = "".join(path.read_text() for path in (STATIC / "js").iterdir())

    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", scripts) == []


@pytest.mark.slow
def test_wheel_has_every_file_of_the_page(tmp_path: Path) -> None:
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    copied = tmp_path / "checkout"
    for package in ("peer", "localfaas"):
        shutil.copytree(CHECKOUT / package, copied / package)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, copied)

    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=copied, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(CHECKOUT)) for path in STATIC.rglob("*") if path.is_file()} <= names
