"""A run's `rounds.jsonl`, read as it grows."""

from pathlib import Path

import msgspec

_READ_BYTES = 4 << 20


class RoundLine(msgspec.Struct, frozen=True):
    """What the page needs of a line (`peer.records.rounds.RoundRecord`); unknown fields are ignored."""

    run: str
    peer: int
    round: int
    time: float
    phase_seconds: dict[str, float]
    loss: float | None = None
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    invocations: int = 0
    cold_starts: int = 0
    retries: dict[str, int] = {}
    object_bytes: dict[str, int] = {}
    peak_function_bytes: int = 0


class RoundsFile:
    """Yields the lines that came since it was last read.

    Args:
        path: need not be there yet.
        run: lines of other runs are left out.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._run = run
        self._offset = 0
        self._file = 0
        self._decoder = msgspec.json.Decoder(RoundLine)

    def read(self) -> tuple[list[RoundLine], bool]:
        """Return new lines, and whether the file was replaced, so that what was read before is void.

        At most 4 MiB at once; a line without its end waits, one that a kill tore is left out.

        Raises:
            OSError: it is there and cannot be read.
        """
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return [], False
        is_replaced = self._file not in (0, status.st_ino) or status.st_size < self._offset
        if is_replaced:
            self._offset = 0
        self._file = status.st_ino
        with self.path.open("rb") as file:
            file.seek(self._offset)
            block = file.read(_READ_BYTES)
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line for text in whole.splitlines() if (line := self._decode(text))], is_replaced

    def _decode(self, text: bytes) -> RoundLine | None:
        try:
            line = self._decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return line if line.run == self._run else None
