"""The server in front of a function that is one process a request.

It has those modes of OpenFaaS' watchdogs that fork (https://github.com/openfaas/of-watchdog#modes): `classic`
and `serializing` read the whole request, then write the whole reply; `streaming` passes both on as they come.
The body is on the process' stdin, the rest of the request in `Http_*` variables, and its stdout is the reply.
It listens at descriptor 3, runs by its path with the standard library only, and leaves time limits to the
gateway.
"""

import http.server
import os
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO

_LISTEN_FD = 3
_CHUNK_BYTES = 1 << 16
_FAILED_START = 127
_LEAST_FREE = 8
"""Processes that a small script with a pipe or two needs at once."""
_DEFAULT_TYPE = "application/octet-stream"


def request_environment(
    method: str, target: str, headers: Mapping[str, str], length: int | None
) -> dict[str, str]:
    """Return the `Http_*` variables of a request, as OpenFaaS' watchdogs name them.

    Args:
        method: such as GET.
        target: path and query as in the request line.
        headers: by their name, in any case.
        length: of the body, or None where nobody knows it yet.
    """
    path, _, query = target.partition("?")
    variables = {
        "Http_" + "_".join(part.capitalize() for part in name.split("-")): value
        for name, value in headers.items()
    }
    variables |= {"Http_Method": method, "Http_Path": path}
    if length is not None:
        variables |= {"Http_Content_Length": str(length), "Http_ContentLength": str(length)}
    if query:
        variables["Http_Query"] = query
    # What the operating system cannot pass on has no place in a header either.
    return {name: value for name, value in variables.items() if "\0" not in value}


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves the socket that is descriptor 3."""

    daemon_threads = True

    def __init__(self, command: list[str], mode: str, environment: Mapping[str, str]) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=_LISTEN_FD)
        self.command = command
        self.mode = mode
        self.environment = dict(environment)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection; every path but `/_/…` and every verb is the function's."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """Read a request's head, and have every verb served by the same method."""
        is_parsed = super().parse_request()
        if is_parsed:
            setattr(self, f"do_{self.command}", self._serve)
        return is_parsed

    def log_message(self, *_: object) -> None:
        """Log no requests: the gateway counts them."""

    def _serve(self) -> None:
        if self.path.startswith("/_/"):
            self._reply(200, b"OK\n", "text/plain")
            return
        started_at = time.monotonic()
        print("Forking fprocess.", file=sys.stderr, flush=True)
        num_bytes = self._stream() if self.server.mode == "streaming" else self._serialize()
        seconds = time.monotonic() - started_at
        print(f"Wrote {num_bytes} Bytes - Duration: {seconds:.6f}s", file=sys.stderr, flush=True)

    def _serialize(self) -> int:
        """Run the process on the whole body; reply with all that it wrote, 500 where it failed."""
        body = b"".join(self._body())
        is_combined = (
            self.server.mode == "classic" and self.server.environment.get("combine_output") != "false"
        )
        done = subprocess.run(
            self.server.command,
            input=body,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if is_combined else None,
            env=self._environment(len(body)),
            check=False,
        )
        _end_if_killed(done.returncode)
        if done.returncode:
            text = done.stdout or f"exit status {done.returncode}\n".encode()
            num_bytes = self._reply(500, text, "text/plain")
            _end_if_full()
            return num_bytes
        return self._reply(200, done.stdout, self._content_type())

    def _stream(self) -> int:
        """Run the process while the body comes, and pass on what it writes; a failure ends the connection."""
        length = self.headers.get("Content-Length")
        with subprocess.Popen(
            self.server.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment(int(length) if length else None),
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            feeding = threading.Thread(target=self._feed, args=(process.stdin,), daemon=True)
            feeding.start()
            num_bytes = self._pass_on(process)
            feeding.join()
        return num_bytes

    def _feed(self, stdin: IO[bytes]) -> None:
        pieces = self._body()
        # A process need not read its input; the connection wants it read all the same.
        with suppress(BrokenPipeError), stdin:
            for piece in pieces:
                stdin.write(piece)
                stdin.flush()
        for _ in pieces:
            pass

    def _pass_on(self, process: subprocess.Popen[bytes]) -> int:
        """Return how much the process wrote, all of it sent; 500 where it failed without a word."""
        assert process.stdout is not None
        num_bytes = 0
        while piece := os.read(process.stdout.fileno(), _CHUNK_BYTES):
            if not num_bytes:
                self._start(200, self._content_type(), {"Transfer-Encoding": "chunked"})
            num_bytes += len(piece)
            self._write(b"%x\r\n%s\r\n" % (len(piece), piece))
        status = process.wait()
        _end_if_killed(status)
        if not num_bytes:
            text = f"exit status {status}\n".encode() if status else b""
            num_bytes = self._reply(500 if status else 200, text, self._content_type())
        elif status:
            # Without its end the reply is seen to be broken.
            self.close_connection = True
        else:
            self._write(b"0\r\n\r\n")
        if status:
            _end_if_full()
        return num_bytes

    def _body(self) -> Iterator[bytes]:
        """Yield the request's body, decoded."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while length := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(length)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (piece := self.rfile.read1(min(left, _CHUNK_BYTES))):
            left -= len(piece)
            yield piece

    def _environment(self, length: int | None) -> dict[str, str]:
        own = request_environment(self.command, self.path, dict(self.headers.items()), length)
        return self.server.environment | own

    def _content_type(self) -> str:
        if content_type := self.server.environment.get("content_type"):
            return content_type
        is_echoed = self.server.mode == "classic"
        return (self.headers.get("Content-Type") if is_echoed else None) or _DEFAULT_TYPE

    def _reply(self, status: int, body: bytes, content_type: str) -> int:
        self._start(status, content_type, {"Content-Length": str(len(body))})
        self._write(body)
        return len(body)

    def _start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Type": content_type, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)


def _end_if_killed(status: int) -> None:
    """End this process where its child was killed: the gateway then finds out why, such as its memory."""
    if status == -signal.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)


def _end_if_full() -> None:
    """End this process where it can hardly start another one: what requests left behind is as many as may be.

    The gateway then ends those, too, and has another replica instead.
    """
    is_tried = threading.Event()
    threads = [threading.Thread(target=is_tried.wait, daemon=True) for _ in range(_LEAST_FREE)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:
        print("Too many processes are left by requests: this replica ends.", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        is_tried.set()


def main() -> None:
    """Serve `fprocess` until SIGTERM, or end with 127 where there is no such program."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
    command = shlex.split(environment.get("fprocess", ""))
    if command and command[0] in ("python", "python3"):
        command[0] = sys.executable
    if not command or shutil.which(command[0]) is None:
        print(f"cannot start: no program {command[:1]} in PATH", file=sys.stderr)
        raise SystemExit(_FAILED_START)
    _Server(command, environment.get("mode", "classic"), environment).serve_forever()


if __name__ == "__main__":
    main()
