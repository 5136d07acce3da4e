"""A small network of machines on this one: network namespaces at a switch, each with an address of its own.

Only root may make them. Names are resolved by a hosts file that the processes in them see as /etc/hosts.
"""

import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from parts import missing, program

_SUBNET = "198.18.7"  # of the block that is reserved for benchmarks (RFC 2544), so nobody's
_WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
_WITH_DRIVE = 'mount -t tmpfs tmpfs /srv && mkdir "$1" && mount --bind "$0" "$1" && shift && exec "$@"'


def require_machines() -> None:
    """Return if machines can be made here; else the test ends, skipped or failed."""
    if os.geteuid() != 0:
        missing("network namespaces need root")
    for name in ("ip", "nsenter", "unshare"):
        program(name, "install iproute2 and util-linux")


@dataclass
class Machines:
    """Machine 0 is the switch itself, at .254; the others have the addresses .1, .2 and so on."""

    directory: Path
    num_machines: int
    prefix: str = field(default_factory=lambda: f"pl{secrets.token_hex(3)}")

    def address(self, machine: int) -> str:
        return f"{_SUBNET}.{machine or 254}"

    def up(self, names: Mapping[str, Sequence[int]]) -> None:
        """Make them; `names` gives the machines whose addresses a host name has, in this order."""
        lines = ["127.0.0.1 localhost"]
        for name, machines in names.items():
            lines += [f"{self.address(machine)} {name}" for machine in machines]
        (self.directory / "hosts").write_text("".join(f"{line}\n" for line in lines))
        for machine in range(self.num_machines + 1):
            _ip("netns", "add", self._namespace(machine))
            self._inside(machine, "link", "set", "lo", "up")
        self._inside(0, "link", "add", "switch", "type", "bridge")
        self._inside(0, "address", "add", f"{self.address(0)}/24", "dev", "switch")
        self._inside(0, "link", "set", "switch", "up")
        for machine in range(1, self.num_machines + 1):
            peer = ("peer", "name", "eth0", "netns", self._namespace(machine))
            self._inside(0, "link", "add", f"to{machine}", "type", "veth", *peer)
            self._inside(0, "link", "set", f"to{machine}", "master", "switch", "up")
            self._inside(machine, "address", "add", f"{self.address(machine)}/24", "dev", "eth0")
            self._inside(machine, "link", "set", "eth0", "up")

    def down(self) -> None:
        """Remove them; processes in them go on without a network."""
        for machine in range(self.num_machines + 1):
            subprocess.run(["ip", "netns", "delete", self._namespace(machine)], capture_output=True)

    def start(
        self,
        machine: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes],
        drive: tuple[Path, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process on a machine; its id is the program's own.

        `drive` is a folder, and where below /srv the process has it.
        """
        enter = ["nsenter", f"--net=/run/netns/{self._namespace(machine)}", "unshare", "--mount"]
        enter += ["sh", "-c", _WITH_HOSTS, str(self.directory / "hosts")]
        if drive is not None:
            enter += ["sh", "-c", _WITH_DRIVE, *map(str, drive)]
        return subprocess.Popen(
            [*enter, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def _namespace(self, machine: int) -> str:
        return f"{self.prefix}-{machine}"

    def _inside(self, machine: int, *arguments: str) -> None:
        _ip("-n", self._namespace(machine), *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
