"""A small file system of its own for a test: one that can be filled without harm to anything else."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from parts import missing


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """Yield `path` as the root of an empty file system of that size, gone afterwards."""
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(path)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        missing(f"no file system can be mounted here: {made.stderr.strip()}; run as root")
    try:
        yield path
    finally:
        # Lazily: whoever still has a file open there does not keep the name.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(directory: Path) -> None:
    """Write until nothing more goes in."""
    with (directory / "filling").open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 65536)
