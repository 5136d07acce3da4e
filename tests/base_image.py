"""A base image for functions, made of this machine's Python and packages, where no image can be pulled.

It stands in for `python:3.11-slim`, with what `pip install -r requirements.txt` would bring already there:
the same interpreter and the same torch as the tests run on, so that a function in a container computes with
what a function in a process computes with. Of the packages' large files only those that a training step maps
are in it: torch's CUDA build is 5 GB, and cannot be imported without 3 GB of them.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import docker
from packaging.requirements import Requirement

# What the Dockerfile runs, and what a test looks around with.
_TOOLS = ["sh", "cat", "grep", "id", "ls", "rm", "touch", "useradd"]
_PACKAGES = ["flask", "msgspec", "numpy", "pip", "torch", "waitress", "xxhash"]
_STEP = """
import flask, msgspec, numpy, ssl, torch, waitress, xxhash
torch.nn.Conv2d(3, 4, 3)(torch.ones(1, 3, 8, 8)).sum().backward()
print(open("/proc/self/maps").read())
"""
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_STDLIB = f"usr/local/lib/{_VERSION}"
_LARGE_BYTES = 4 << 20
_NEVER = re.compile(r"/(include|tests?|idlelib|tkinter|ensurepip|lib2to3|site-packages|config-[^/]*)/")
_DIRECTORIES = ["usr/bin", "usr/lib", "usr/local/bin", "etc/default", "root", "home", "var"]
# Every place where some distribution's loader, shell or useradd looks.
_LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/bin",
    "lib": "usr/lib",
    "lib64": "usr/lib",
    "usr/sbin": "bin",
    "usr/lib64": "lib",
    "usr/local/bin/python": _VERSION,
    "usr/local/bin/python3": _VERSION,
    f"{_STDLIB}/dist-packages": "site-packages",
}
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/gshadow": "root:*::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "usr/local/bin/pip": f'#!/bin/sh\nexec {_VERSION} -m pip "$@"\n',
}


def import_base_image(client: docker.DockerClient, repository: str, tag: str) -> None:
    """Make the image `repository:tag`, of about 3 GB with torch's CUDA build."""
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=_write_archive, args=(write_end,))
    writer.start()
    with os.fdopen(read_end, "rb") as stream:
        client.api.import_image_from_stream(
            stream, repository, tag, changes=["ENV PATH=/usr/local/bin:/usr/bin"]
        )
    writer.join()


def _write_archive(descriptor: int) -> None:
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for name in _DIRECTORIES:
            _add(archive, name, type=tarfile.DIRTYPE, mode=0o755)
        _add(archive, "tmp", type=tarfile.DIRTYPE, mode=0o1777)
        for name, target in _LINKS.items():
            _add(archive, name, type=tarfile.SYMTYPE, linkname=target)
        for name, text in _TEXTS.items():
            _add(archive, name, text.encode(), mode=0o755 if "/bin/" in name else 0o644)
        for name, source in _files().items():
            archive.add(source.resolve(), name, recursive=False, filter=_owned_by_root)


def _add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    item = tarfile.TarInfo(name)
    item.size = len(content)
    for field, value in fields.items():
        setattr(item, field, value)
    archive.addfile(item, io.BytesIO(content))


def _owned_by_root(item: tarfile.TarInfo) -> tarfile.TarInfo:
    item.uid = item.gid = 0
    item.uname = item.gname = "root"
    item.type = tarfile.REGTYPE if item.islnk() else item.type
    return item


def _files() -> dict[str, Path]:
    """Return the files of this machine by their names in the image."""
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    files = {f"usr/bin/{tool}": _program(tool) for tool in _TOOLS} | {f"usr/local/bin/{_VERSION}": python}
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in _walk(stdlib):
        files[f"{_STDLIB}/{path.relative_to(stdlib)}"] = path
    extensions = [path for path in files.values() if path.suffix == ".so" and "_tkinter" not in path.name]
    site = Path(sysconfig.get_path("purelib")).resolve()
    mapped = {Path(line) for line in _mapped() if Path(line).exists()}
    for path in _package_files(site, mapped):
        files[f"{_STDLIB}/site-packages/{path.relative_to(site)}"] = path
    programs = [*files.values()][: len(_TOOLS) + 1]
    for library in _libraries([*programs, *extensions, *(path for path in mapped if ".so" in path.name)]):
        if not library.is_relative_to(site):
            files[f"usr/lib/{library.name}"] = library
    return files


def _program(name: str) -> Path:
    found = shutil.which(name, path=f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ['PATH']}")
    if found is None:
        raise FileNotFoundError(f"no program {name!r}, which the base image of the test needs")
    return Path(found)


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        if path.is_file() and not _NEVER.search(str(path.relative_to(directory.parent))):
            yield path


def _mapped() -> Iterator[str]:
    """Yield the files that a process has mapped which computed a gradient."""
    maps = subprocess.run([sys.executable, "-c", _STEP], check=True, capture_output=True, text=True).stdout
    yield from set(re.findall(r" (/\S+)$", maps, re.M))


def _package_files(site: Path, mapped: set[Path]) -> Iterator[Path]:
    """Yield the files of what the functions require, small ones whole and large ones if they are mapped."""
    for name in _closure(_PACKAGES):
        for entry in metadata.files(name) or []:
            path = Path(str(entry.locate())).resolve()
            if not path.is_file() or not path.is_relative_to(site) or _NEVER.search(f"/{entry}"):
                continue
            if path.suffix in (".py", ".pyc") or path.stat().st_size < _LARGE_BYTES or path in mapped:
                yield path


def _closure(names: list[str]) -> set[str]:
    """Return the distributions that these need here, and themselves."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *sorted(requirement.extras)):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            needed = map(Requirement, metadata.requires(requirement.name) or [])
            waiting += [item for item in needed if not item.marker or item.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def _libraries(programs: list[Path]) -> set[Path]:
    """Return the shared libraries of these, the loader among them."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", told, re.M)}
