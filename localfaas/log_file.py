"""The lines of one function on disk: two files of at most 8 MiB. A disk that is full stops nobody."""

import logging
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

_log = logging.getLogger(__name__)

_MAX_FILE_BYTES = 8 << 20


class LogFile:
    """A file that lines are added to, and an older one that it becomes when it is long.

    A line that the disk does not take is left out, which the gateway's log says once; the next that it takes
    begins a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._older_path = path.with_suffix(".log.1")
        self._file: FileIO | None = None
        self._file_bytes = 0
        self._is_torn = False
        self._is_failing = False
        self._is_closed = False

    def read(self) -> Iterator[str]:
        """Yield the lines that are there, oldest first; one that was cut off is among them as it is."""
        for path in (self._older_path, self._path):
            if path.exists():
                yield from path.read_text(errors="replace").splitlines()

    def write(self, line: str) -> None:
        """Add a line, which has its newline, as far as the disk takes it; to a closed file nothing."""
        if self._is_closed:
            # The last words of a function that was removed.
            return
        try:
            self._append(line.encode())
        except OSError as error:
            if not self._is_failing:
                _log.warning("%s takes no lines, only memory does: %s", self._path, error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def close(self) -> None:
        """Take no more lines; the files stay."""
        self._is_closed = True
        self._release()

    def remove(self) -> None:
        """Take no more lines, and leave no file."""
        self.close()
        self._path.unlink(missing_ok=True)
        self._older_path.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        file = self._file or self._open()
        data = b"\n" + line if self._is_torn else line
        # Unbuffered: what a full disk refuses must not be waiting when the file is closed. It takes a part,
        # and gives its reason at the next attempt.
        while data:
            num_written = file.write(data) or 0
            self._file_bytes += num_written
            data = data[num_written:]
            self._is_torn = len(data) > 0
        if self._file_bytes > _MAX_FILE_BYTES:
            self._release()
            self._path.replace(self._older_path)

    def _open(self) -> FileIO:
        file = FileIO(self._path, "a+")
        self._file = file
        self._file_bytes = os.fstat(file.fileno()).st_size
        # By a gateway that was killed, or by a disk that was full.
        self._is_torn = self._file_bytes > 0 and os.pread(file.fileno(), 1, self._file_bytes - 1) != b"\n"
        return file

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
