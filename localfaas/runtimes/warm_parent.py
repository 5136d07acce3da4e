"""The process that replicas are forked from, after it has imported what they need.

It imports the modules to preload, freezes the heap for the garbage collector, and then serves its gateway
over one SOCK_SEQPACKET socket, a JSON object a packet:

    {"do": "start", "id", "argv", "directory", "environment", "join", "rlimit_data_bytes", "secrets",
     "is_forked", "is_listening"}           with two descriptors: the listening socket, and where output goes
    {"do": "kill", "id", "signal"}          to the replica's whole process group
    {"is": "ready", "base_bytes"}           imports are done; the resident memory that every fork shares
    {"is": "started", "id", "pid"}
    {"is": "refused", "id", "reason"}       the replica was not started
    {"is": "exited", "id", "status", "cpu_seconds"}    a wait status; its process group is dead

A replica finds its listening socket at descriptor 3, as in systemd's socket activation (sd_listen_fds(3)). It
dies with this process (PR_SET_PDEATHSIG, hence the single thread), and this process ends, killing every
replica's group, when the gateway closes the socket or dies. The file runs by its path and uses the standard
library only, so nothing but the preloaded modules is in it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NoReturn

_LISTEN_FD = 3
_CONTROL_FD = _LISTEN_FD
_MAX_PACKET_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 32, 4096, 1 << 14, 1 << 19
_SECRETS_PATH = "/var/openfaas/secrets"


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _status_bytes(field: str) -> int:
    """Return a size from /proc/self/status, such as VmData or RssAnon."""
    with open("/proc/self/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    return 0


def _kill_group(pid: int, number: int) -> None:
    """Send a signal to the process group that `pid` leads, whatever is left of it."""
    with contextlib.suppress(OSError):
        os.killpg(pid, number)


def _preload(modules: Sequence[str]) -> None:
    """Import `modules`; one that cannot be is left to the function, which then says what is wrong."""
    gc.disable()
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            text = f"warm parent: cannot preload {module}, and goes on without it: {error}"
            print(text, file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()


def _print_what_is_outdated(modules: Iterable[ModuleType], since: float) -> None:
    """Say so if a module's file is newer than what was imported of it, and a function may need that.

    Args:
        modules: those that were preloaded.
        since: when that began, in seconds of the system's clock.
    """
    for module in modules:
        with contextlib.suppress(OSError):
            path = getattr(module, "__file__", None)
            # The time of the inode: an installer may give a new file an old time of modification.
            if path and os.stat(path).st_ctime > since:
                text = f"{path} has changed since the gateway preloaded it: restart the gateway"
                print(text, file=sys.stderr)
                return


class WarmParent:
    """Serves one gateway until that closes the control socket."""

    def __init__(self, control: socket.socket, preloaded_at: float) -> None:
        self._control = control
        self._preloaded_at = preloaded_at
        self._replicas: dict[int, str] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Start and reap replicas until the gateway is gone; none is left then."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._send({"is": "ready", "base_bytes": _status_bytes("RssAnon")})
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        is_connected = True
        while is_connected:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                else:
                    is_connected = self._receive()
        for pid in self._replicas:
            _kill_group(pid, signal.SIGKILL)

    def _send(self, packet: dict[str, Any]) -> bool:
        try:
            self._control.send(json.dumps(packet).encode())
        except OSError:
            # The gateway is gone: the next read says so.
            return False
        return True

    def _receive(self) -> bool:
        """Obey one packet; return False once the gateway is gone."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._control, _MAX_PACKET_BYTES, 2)
        except ConnectionError:
            return False
        if not packet:
            return False
        message = json.loads(packet)
        if message["do"] == "start":
            try:
                self._start(message, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        else:
            for pid, replica in self._replicas.items():
                if replica == message["id"]:
                    _kill_group(pid, message["signal"])
        return True

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> None:
        num_tasks = len(os.listdir("/proc/self/task"))
        if num_tasks != 1:
            reason = (
                f"a preloaded module started {num_tasks - 1} threads, and a fork would hang; let it start "
                "none at import, or take it out of `preload`"
            )
            self._send({"is": "refused", "id": message["id"], "reason": reason})
            return
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            self._send({"is": "refused", "id": message["id"], "reason": f"fork: {error.strerror}"})
            return
        if pid == 0:
            self._become_replica(message, descriptors, parent)
        # Also done by the replica: whoever comes first, so that a kill finds the group.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self._replicas[pid] = message["id"]
        self._send({"is": "started", "id": message["id"], "pid": pid})

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            if pid in self._replicas:
                # Not reaped yet, so the number still means this group.
                _kill_group(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            replica = self._replicas.pop(pid, None)
            if replica is not None:
                cpu_seconds = usage.ru_utime + usage.ru_stime
                self._send({"is": "exited", "id": replica, "status": status, "cpu_seconds": cpu_seconds})

    def _become_replica(self, message: dict[str, Any], descriptors: list[int], parent: int) -> NoReturn:
        code = 1
        preloaded = tuple(sys.modules.values())
        try:
            os.setpgid(0, 0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.close(self._wake_read)
            os.close(self._wake_write)
            _take_descriptors(*descriptors)
            for path in message["join"]:
                with open(path, "w") as file:
                    file.write("0")
            code = _run(message)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except BaseException:
            # The boundary of the process: whatever the function raised is its last words.
            traceback.print_exc()
            _print_what_is_outdated(preloaded, self._preloaded_at)
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)


def _take_descriptors(listening: int, output: int) -> None:
    """Put nothing at 0, the output at 1 and 2, and the socket at 3, where the control socket was."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(listening, _LISTEN_FD)
    os.set_inheritable(_LISTEN_FD, True)
    for descriptor in {nothing, output, listening} - {0, 1, 2, _LISTEN_FD}:
        os.close(descriptor)


def _give_secrets(directory: str) -> str:
    """Return the path at which this process finds the files of `directory`, read-only.

    That is OpenFaaS' own, in a mount namespace of this process and its children, where one can be made (it
    takes root, and leaves an empty folder of that name on the machine); else it is `directory`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    source, target = os.fsencode(directory), os.fsencode(_SECRETS_PATH)
    try:
        os.makedirs(_SECRETS_PATH, exist_ok=True)
    except OSError:
        return directory
    if libc.unshare(_CLONE_NEWNS) != 0:
        return directory
    mounts = (
        # Slave: what is mounted on the machine is seen here too, and nothing of this on the machine.
        (b"none", b"/", _MS_REC | _MS_SLAVE),
        (source, target, _MS_BIND),
        (b"none", target, _MS_REMOUNT | _MS_BIND | _MS_RDONLY),
    )
    is_mounted = all(libc.mount(what, where, None, flags, None) == 0 for what, where, flags in mounts)
    return _SECRETS_PATH if is_mounted else directory


def _run(message: dict[str, Any]) -> int:
    """Run the replica's command in this process; return its exit status."""
    argv, environment = message["argv"], message["environment"]
    if message["secrets"] is not None:
        environment["secret_mount_path"] = _give_secrets(message["secrets"])
    if message["is_listening"]:
        environment |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.chdir(message["directory"])
    if not message["is_forked"]:
        program = shutil.which(argv[0], path=environment.get("PATH"))
        if program is None:
            print(
                f"cannot start: no program {argv[0]!r} in PATH {environment.get('PATH')!r}", file=sys.stderr
            )
            return 127
        os.execve(program, argv, environment)
    os.environ.clear()
    os.environ.update(environment)
    if message["rlimit_data_bytes"] is not None:
        limit = _status_bytes("VmData") + message["rlimit_data_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    sys.argv = argv[1:]
    sys.path.insert(0, message["directory"])
    gc.enable()
    runpy.run_path(argv[1], run_name="__main__")
    return 0


def main(control_fd: int, modules: Sequence[str]) -> None:
    """Serve the gateway at `control_fd` with `modules` imported; return when it is gone."""
    # Nothing that a module opens may take the descriptor that replicas expect their socket at.
    if control_fd != _CONTROL_FD:
        os.dup2(control_fd, _CONTROL_FD)
        os.close(control_fd)
    control = socket.socket(fileno=_CONTROL_FD)
    control.set_inheritable(False)
    # Until there are replicas to care for, dying with the gateway is enough.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    preloaded_at = time.time()
    _preload(modules)
    _prctl(_PR_SET_PDEATHSIG, 0)
    WarmParent(control, preloaded_at).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
    # What was preloaded has nothing to finish, and taking it apart would take half a second.
    os._exit(0)
