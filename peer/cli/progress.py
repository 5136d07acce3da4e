"""Progress on stderr: a bar on a terminal, now and then a line elsewhere. No threads, since peers fork."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from peer.records.rounds import RoundRecord, mean_staleness

_LINES = 12
_LONGEST_SILENCE_SECONDS = 60.0


class _Bar:
    """A bar that is made when there is first something to show, and ends with its `with` block."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class RunProgress(_Bar):
    """Shows a run's rounds as they complete.

    Args:
        rounds: how many there are.
        first: the round that this begins with.
        peer: whose records are shown; those of the others are the same but for times.
    """

    def __init__(self, rounds: int, first: int = 0, peer: int = 0) -> None:
        super().__init__()
        self._rounds = rounds
        self._first = first
        self._peer = peer
        self._began = time.monotonic()
        self._validation = ""
        self._next_line = first
        self._last_line = 0.0

    def update(self, record: RoundRecord) -> None:
        """Show one record, if it is of the peer that is shown."""
        if record.peer != self._peer:
            return
        if record.validation_accuracy is not None:
            self._validation = f"  held-out {record.validation_accuracy:6.2%}"
        text = f"loss {record.loss or 0:.4f}  accuracy {record.accuracy or 0:6.2%}{self._validation}"
        if record.staleness:
            text += f"  {mean_staleness(record.staleness):.1f} rounds late"
        if sys.stderr.isatty():
            self._show_bar(record, text)
        elif self._is_due(record):
            self._last_line = record.time
            self._next_line = record.round + max(1, (self._rounds - self._first) // _LINES)
            seconds = time.monotonic() - self._began
            print(
                f"round {record.round + 1:>4}/{self._rounds}  {seconds:5.1f} s  {text}",
                file=sys.stderr,
                flush=True,
            )

    def _is_due(self, record: RoundRecord) -> bool:
        is_late = record.time - self._last_line >= _LONGEST_SILENCE_SECONDS
        return is_late or record.round >= self._next_line or record.round == self._rounds - 1

    def _show_bar(self, record: RoundRecord, text: str) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("round {task.completed}/{task.total}"),
                BarColumn(bar_width=28),
                TextColumn("{task.description}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                auto_refresh=False,
            )
            self._progress.start()
            self._progress.add_task(text, total=self._rounds, completed=self._first)
        (task,) = self._progress.task_ids
        self._progress.update(task, completed=record.round + 1, description=text, refresh=True)


class ByteProgress(_Bar):
    """Shows how many bytes of a transfer are done, on a terminal only."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def update(self, done_bytes: int, total_bytes: int) -> None:
        """Show that `done_bytes` of `total_bytes` are done."""
        if not sys.stderr.isatty():
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                DownloadColumn(),
                console=Console(stderr=True),
                auto_refresh=False,
            )
            self._progress.start()
            self._progress.add_task(self._text, total=total_bytes)
        (task,) = self._progress.task_ids
        self._progress.update(task, completed=done_bytes, refresh=True)
