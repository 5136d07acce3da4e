"""Runs an experiment's cells, one after the other, and writes down each as soon as it has ended."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from peer import messages
from peer.config import RunConfig, current_versions
from peer.errors import (
    ClockSkewed,
    ConfigurationError,
    FileNotWritten,
    FunctionMissing,
    GatewayDenied,
    GatewayUnreachable,
    PeerlessError,
    PlatformError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from peer.experiments import records
from peer.experiments.matrix import Cell, Matrix
from peer.experiments.place import Place
from peer.experiments.process import CellProcess, Ended
from peer.experiments.records import SERVERLESS, CellRecord, Measure, Status
from peer.local.boxes import BOX_FILE, Box
from peer.store import keys
from peer.store.retry import Patience
from peer.store.s3 import Store

_ATTEMPTS = 2
_REMOVAL = Patience(total_seconds=10.0)
_AWAY = (GatewayUnreachable, StoreUnreachable)
# whatever comes next would end in the same way, so the experiment does
_OF_ALL_CELLS = (
    FileNotWritten,
    StoreFull,
    StoreDenied,
    ClockSkewed,
    GatewayDenied,
    FunctionMissing,
    PlatformError,
)
_OUT_OF_TIME: Status = "timed_out"

OnCell = Callable[[CellRecord], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Planned:
    """A cell, as `peerless train` understands it; `impossible` is why it cannot be run, empty if it can."""

    cell: Cell
    config: RunConfig | None
    impossible: str = ""


def due(planned: Sequence[Planned], done: Sequence[CellRecord], *, is_failed_again: bool) -> list[Planned]:
    """Return what is to be run: all but the cells that have ended already.

    Args:
        planned: in order.
        done: what the experiment's folder has.
        is_failed_again: those that failed or ran out of time count as not ended.
    """
    ended = {
        record.id
        for record in records.latest(done)
        if record.status in ("ok", "skipped") or not is_failed_again
    }
    return [each for each in planned if each.cell.id not in ended]


def seconds_left(left: Sequence[Planned], done: Sequence[CellRecord]) -> float | None:
    """Return how long the rest will take, None while nothing is known.

    A cell takes what its repeats took, else what its variant took, else what any cell took: medians.
    """
    by_kind: dict[str, list[float]] = {}
    for record in done:
        if record.status != "skipped":
            for kind in (record.config_hash, record.variant, ""):
                by_kind.setdefault(kind, []).append(record.seconds)
    if not by_kind:
        return None
    total = 0.0
    for each in left:
        if not each.impossible:
            kinds = (each.cell.config_hash, each.cell.variant, "")
            total += median(next(by_kind[kind] for kind in kinds if kind in by_kind))
    return total


class Runner:
    """Runs cells at one place, into one folder.

    Args:
        matrix: what is asked.
        directory: of the experiment; `records.begun` has made it.
        place: where gateway and store are.
        replicas: of `gradient` where a cell does not say; None leaves them as they are.
        data_dir: where datasets' own files are.
        say: told what a person should know meanwhile.
    """

    def __init__(
        self,
        matrix: Matrix,
        directory: Path,
        place: Place,
        replicas: int | None,
        data_dir: Path | None,
        say: Say,
    ) -> None:
        self._matrix = matrix
        self._directory = directory
        self._place = place
        self._replicas = replicas
        self._data_dir = data_dir
        self._say = say

    def run(self, planned: Sequence[Planned], on_cell: OnCell) -> None:
        """Run these cells; each is in the folder before `on_cell` is told of it.

        A cell that fails, or runs out of time, is written down as such, and the next one begins.

        Raises:
            StopRequested: the cell that ran is not written down, all before are.
            PeerlessError: every other cell would fail for the same reason; likewise.
        """
        for each in planned:
            record = self._skipped(each) if each.impossible else self._attempted(each)
            records.append(self._directory, record)
            on_cell(record)

    def _attempted(self, planned: Planned) -> CellRecord:
        """Return how a cell ended; one that an outage has disturbed is tried again once.

        What the first attempt has measured nevertheless is in the folder, in case the second is killed.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            record, is_disturbed = self._attempt(planned)
            if not is_disturbed or attempt == _ATTEMPTS:
                break
            if record.measured is not None:
                records.append(self._directory, record)
            self._say(f"{planned.cell}: gateway or store were away meanwhile; once again")
        return record

    def _attempt(self, planned: Planned) -> tuple[CellRecord, bool]:
        """Return how one attempt ended, and whether an outage has had a part in it."""
        cell, config = planned.cell, planned.config
        assert config is not None
        self._place.wait(self._say)
        if cell.variant == SERVERLESS:
            self._place.prepare(cell.settings.get("replicas", self._replicas))
        # a name of its own, for peers of an attempt that was killed may go on for a round
        attempts = f"{self._matrix.name}-{cell.id}"
        run = f"{attempts}-{datetime.now(UTC):%H%M%S}"
        directory = self._directory / records.RUNS
        process = CellProcess(cell, config, self._place, run, directory, self._data_dir)
        for weights in directory.glob(f"{attempts}-*/model.safetensors"):
            weights.unlink(missing_ok=True)
        started, load_average, began = _now(), os.getloadavg()[0], time.monotonic()
        try:
            ended = process.run(self._matrix.timeout)
            seconds = time.monotonic() - began
        finally:
            self._remove_runs(attempts)
        _check_goes_on(ended)
        measured, status, error = None, _status(ended), ended.text
        if status == "ok":
            try:
                measured, error = process.measured(self._matrix.warm_up_rounds), ""
            except ConfigurationError as unreadable:
                status, error = "failed", str(unreadable)
        record = self._record(planned, status, error, started, seconds)
        record = msgspec.structs.replace(
            record,
            run=run,
            load_average=round(load_average, 2),
            box=_box(process.directory),
            measured=measured,
        )
        return record, _is_disturbed(ended, measured)

    def _skipped(self, planned: Planned) -> CellRecord:
        return self._record(planned, "skipped", planned.impossible, _now(), 0.0)

    def _record(
        self, planned: Planned, status: Status, error: str, started: str, seconds: float
    ) -> CellRecord:
        cell = planned.cell
        return CellRecord(
            id=cell.id,
            experiment=self._matrix.name,
            variant=cell.variant,
            axes=cell.axes,
            settings=cell.settings,
            repeat=cell.repeat,
            seed=cell.seed,
            is_warm_up=cell.repeat == 0,
            status=status,
            error=error,
            started=started,
            seconds=seconds,
            config_hash=cell.config_hash,
            versions=current_versions(),
            load_average=0.0,
        )

    def _remove_runs(self, attempts: str) -> None:
        """Leave nothing of a cell's runs in the store, so that it holds one run at a time, if it is there."""
        store = Store(self._place.store_address, patience=_REMOVAL)
        try:
            store.delete([key for key, _ in store.list(f"{keys.run(attempts).removesuffix('/')}-")])
        except StoreError as error:
            self._say(f"what the run left in the store is not removed: {error}")
        finally:
            store.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _status(ended: Ended) -> Status:
    if ended.exit_code is None:
        return _OUT_OF_TIME
    return "ok" if ended.exit_code == 0 else "failed"


def _check_goes_on(ended: Ended) -> None:
    """Return if the next cell may fare better than this one."""
    for kind in _OF_ALL_CELLS:
        if ended.exit_code == kind.exit_code:
            error = PeerlessError(f"{ended.text} (the cells before are kept: the same command goes on)")
            error.exit_code = kind.exit_code
            raise error


def _is_disturbed(ended: Ended, measured: Measure | None) -> bool:
    if measured is None:
        return ended.exit_code in {kind.exit_code for kind in _AWAY}
    return any(kind.__name__ in measured.retries for kind in _AWAY)


def _box(directory: Path) -> Box | None:
    """Return the box that the peers were in, if they were in one."""
    path = directory / BOX_FILE
    return messages.decode(path.read_bytes(), Box) if path.exists() else None
