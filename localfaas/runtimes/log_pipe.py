"""Reading what a replica writes, line by line, without blocking the gateway."""

import asyncio
import os
from collections.abc import Callable

# So much of a flood is taken at once that the other functions hardly notice.
_CHUNK_BYTES = 1 << 14
_MAX_LINE_BYTES = 8 << 10
# As much as a pipe may hold, so that one who goes on writing is not waited for.
_MAX_LEFT_BYTES = 1 << 20


class LogPipe:
    """One pipe whose lines go to a callback until it is closed; lines above 8 KiB are cut into several."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        """Open the pipe; its writing end is for a replica, and has to be closed here once passed on.

        Raises:
            OSError: no descriptors are left.
        """
        self._on_line = on_line
        self._rest = b""
        self._read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_fd, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_fd, self._read)
        self._is_open = True

    def close_writing(self) -> None:
        """Close this process' copy of the writing end."""
        os.close(self.write_fd)

    def close(self) -> None:
        """Take what is left in the pipe, its last line whole or not, and close it, whoever still writes."""
        for _ in range(_MAX_LEFT_BYTES // _CHUNK_BYTES):
            if not self._is_open or not self._read():
                break
        self._close()

    def _read(self) -> bool:
        """Take what is there; return False where that is nothing."""
        try:
            data = os.read(self._read_fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._close()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(self._rest) > _MAX_LINE_BYTES:
            self._emit(self._rest)
            self._rest = b""
        return True

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._read_fd)
        os.close(self._read_fd)
        if self._rest:
            self._emit(self._rest)

    def _emit(self, line: bytes) -> None:
        for start in range(0, max(1, len(line)), _MAX_LINE_BYTES):
            self._on_line(line[start : start + _MAX_LINE_BYTES].decode(errors="replace").rstrip("\r"))
