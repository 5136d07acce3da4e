"""One cell as a process: what is started for it, for how long it may run, and what it left."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peer import messages
from peer.config import RunConfig
from peer.experiments import ddp_records, measure
from peer.experiments.ddp_records import DdpOrder
from peer.experiments.matrix import RUNNER_SETTINGS, Cell
from peer.experiments.place import Place
from peer.experiments.records import CONVENTIONAL, DDP, Measure
from peer.files import make_folder

LOG = "command.log"

_PR_SET_PDEATHSIG = 1
_ALLOCATOR = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"
"""What `stack.yml` gives the functions; peers that compute themselves have it too, or they would be slower
by that alone."""

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PREFIX = "PEERLESS_"
_KEPT_VARIABLES = {"PEERLESS_MINIO"}
_END_SECONDS = (10.0, 5.0)
_LAST_LINES = 3
_DDP_RESULT = "ddp.json"


@dataclass(frozen=True)
class Ended:
    """How a cell's process ended: its exit code, None if its time ran out, and what it said last."""

    exit_code: int | None
    text: str


def option_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as they are typed after `peerless train`."""
    arguments = []
    for name, value in settings.items():
        if name in RUNNER_SETTINGS or value is False or value is None or value == "":
            continue
        if value is True:
            arguments.append(f"--{name}")
        else:
            arguments += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return arguments


class CellProcess:
    """The process of one cell, with a folder of its own for what it writes.

    Args:
        cell: what to run.
        config: the same, as `peerless train` has understood it.
        place: where.
        run: its name, of which nothing may be left in the store.
        directory: of runs; the folder of this one is made anew in it.
        data_dir: where the dataset's files are, if it is not stored yet.
    """

    def __init__(
        self, cell: Cell, config: RunConfig, place: Place, run: str, directory: Path, data_dir: Path | None
    ) -> None:
        self._cell, self._config, self._place = cell, config, place
        self._run, self._data_dir = run, data_dir
        self.directory = directory / run

    def run(self, timeout_seconds: float) -> Ended:
        """Return how it ended. Whatever interrupts this ends the process, too.

        Raises:
            FileNotWritten: there is no room for its files.
        """
        shutil.rmtree(self.directory, ignore_errors=True)
        make_folder(self.directory)
        log_path = self.directory / LOG
        stdin = self._order() if self._cell.variant == DDP else b""
        output = self.directory / (_DDP_RESULT if self._cell.variant == DDP else "stdout.log")
        with log_path.open("wb") as log, output.open("wb") as stdout:
            process = subprocess.Popen(
                self._arguments(),
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
            try:
                process.communicate(stdin, timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                return Ended(None, f"it was ended after {timeout_seconds:.0f} s")
            finally:
                _end(process)
        return Ended(process.returncode, _last_words(log_path))

    def measured(self, warm_up_rounds: int) -> Measure:
        """Return what it measured, and remove what is large and nobody needs.

        Raises:
            ConfigurationError: its files are not there, or damaged.
        """
        with suppress(FileNotFoundError):
            (self.directory / "model.safetensors").unlink()
        if self._cell.variant == DDP:
            return ddp_records.measured(self.directory / _DDP_RESULT, warm_up_rounds)
        return measure.of_run(self.directory, warm_up_rounds)

    def _arguments(self) -> list[str]:
        if self._cell.variant == DDP:
            return [sys.executable, "-P", "-m", "peer.experiments.ddp"]
        store, gateway = self._place.store_address, self._place.gateway_address
        settings = {
            **self._cell.settings,
            "compute": "local" if self._cell.variant == CONVENTIONAL else "functions",
            "seed": self._cell.seed,
            "run": self._run,
            "runs-dir": self.directory.parent,
            "data-dir": self._data_dir,
            "store": store.endpoint,
            "store-access-key": store.access_key,
            "store-for-functions": store.function_endpoint,
            "bucket": store.bucket,
            "region": store.region,
            "gateway": gateway.url,
            "gateway-user": gateway.user,
            "outage-patience": self._cell.settings.get("outage-patience", self._place.outage_seconds),
            "json": True,
        }
        return [sys.executable, "-P", "-m", "peer", "train", *option_arguments(settings)]

    def _order(self) -> bytes:
        config = self._config
        order = DdpOrder(
            store=asdict(self._place.store_address),
            dataset=config.dataset,
            data_dir=str(self._data_dir) if self._data_dir else None,
            model=config.model,
            optimizer=config.optimizer,
            num_peers=config.num_peers,
            rounds=config.rounds,
            batch_size=config.batch_size,
            batches_per_round=config.batches_per_round,
            seed=self._cell.seed,
        )
        return messages.encode(order)

    def _environment(self) -> dict[str, str]:
        """Return an environment in which nothing but the cell's settings decides what is run."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_PREFIX) or name in _KEPT_VARIABLES
        }
        own |= dict.fromkeys(_ONE_THREAD, "1")
        own |= {
            "PEERLESS_STORE_SECRET_KEY": self._place.store_address.secret_key,
            "PEERLESS_GATEWAY_PASSWORD": self._place.gateway_address.password,
        }
        if self._cell.settings.get("allocator", "tuned") == "tuned":
            own["GLIBC_TUNABLES"] = _ALLOCATOR
        else:
            own.pop("GLIBC_TUNABLES", None)
        return own


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its peers: by a signal, by a second one, which they do not finish a round for."""
    for seconds in _END_SECONDS:
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    if process.poll() is None:
        process.kill()
        process.wait()


def _end_with_parent() -> None:
    """Have the kernel end this process with the runner, also after SIGKILL: nobody would read its result."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_words(log_path: Path) -> str:
    """Return the error that a command ended with, else its last lines."""
    lines = log_path.read_text(errors="replace").strip().splitlines()
    said = [line for line in lines if line.startswith("peerless: ")]
    return said[-1].removeprefix("peerless: ") if said else " / ".join(lines[-_LAST_LINES:])
