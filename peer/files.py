"""Writing the files of a run on this machine: whole or not at all, with an error that says which and why."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peer.errors import FileNotWritten

_LEAST_FREE_BYTES = 8 << 20


@contextmanager
def writing(path: Path, kinds: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turn an error of these `kinds` into one that names the file and says what to do.

    Raises:
        FileNotWritten: the file may be there in part.
    """
    try:
        yield
    except kinds as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileNotWritten(
            f"{path} cannot be written: {reason}; make room there or name another folder"
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Make `content` what the file holds; FileNotWritten leaves what it held before."""
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def append_line(path: Path, line: bytes) -> None:
    """Add a line at the end of a file in one write, so that lines of several processes do not mix."""
    content = line + b"\n"
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(descriptor, content) < len(content):
                raise OSError("the disk is full")
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Return once the folder is there and has room for a run's small files.

    Raises:
        FileNotWritten: it cannot be made, or its disk is full.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path).free < _LEAST_FREE_BYTES:
            raise OSError(f"less than {_LEAST_FREE_BYTES >> 20} MiB are free")
