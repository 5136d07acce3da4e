"""CPU time and peak memory of this process, by phase, as the kernel counts them.

Linux forgets a process' peak when `5` is written to its clear_refs, so that each phase has one of its own:
https://docs.kernel.org/filesystems/proc.html. Where it does not let us, no phase has a peak.
"""

import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_STATUS_BYTES = 8192
_PEAK = b"VmHWM:"
_FORGET = b"5"


class Meter:
    """What phases use, which do not nest; threads beside them are counted, too.

    To be made, and used, by the process that it is about: its files are.

    Args:
        process: its folder in `/proc`.
    """

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._status = self._forget = -1
        with suppress(OSError):
            self._forget = os.open(process / "clear_refs", os.O_WRONLY)
            self._status = os.open(process / "status", os.O_RDONLY)
        self._cpu_seconds: dict[str, float] = {}
        self._peak_bytes: dict[str, int] = {}
        self._since = 0.0
        self._peak_ever = 0

    def begin(self) -> None:
        """Take note that a phase begins."""
        self._read_peak()
        with suppress(OSError):
            os.write(self._forget, _FORGET)
        self._since = time.process_time()

    def end(self, name: str) -> None:
        """Count what was used since `begin` to this phase."""
        cpu_seconds = time.process_time() - self._since
        self._cpu_seconds[name] = self._cpu_seconds.get(name, 0.0) + cpu_seconds
        if peak_bytes := self._read_peak():
            self._peak_bytes[name] = max(self._peak_bytes.get(name, 0), peak_bytes)

    def take(self) -> dict[str, Any]:
        """Return what was counted, under the names that `RoundRecord` has for it, and begin anew.

        The peak of the whole process is since the meter was made.
        """
        self._read_peak()
        taken = {
            "phase_cpu_seconds": self._cpu_seconds,
            "phase_peak_bytes": self._peak_bytes,
            "peak_rss_bytes": self._peak_ever,
        }
        self._cpu_seconds, self._peak_bytes = {}, {}
        return taken

    def close(self) -> None:
        """Give the files back; nothing is counted any more."""
        for descriptor in (self._status, self._forget):
            if descriptor >= 0:
                os.close(descriptor)
        self._status = self._forget = -1

    def _read_peak(self) -> int:
        """Return the peak since it was forgotten, 0 if it never is; keep the largest."""
        if self._status < 0:
            self._peak_ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return 0
        _, _, after = os.pread(self._status, _STATUS_BYTES, 0).partition(_PEAK)
        peak_bytes = int(after.split(maxsplit=1)[0]) * 1024
        self._peak_ever = max(self._peak_ever, peak_bytes)
        return peak_bytes
