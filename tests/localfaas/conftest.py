"""A real gateway with real functions of the real template, and everything to ask it things."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from callbacks import Receiver

from localfaas.build import build_function
from localfaas.config import StatePaths
from localfaas.deploy import GatewayClient, deploy_stack
from localfaas.stack import load_stack

REPOSITORY = Path(__file__).parents[2]
TWO_REPLICAS = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}
PROBE = """
import json, os, signal, subprocess, sys, time
from flask import Response

def handle(event, context):
    query = event.query
    if "print" in query:
        print(query["print"])
    if "fork" in query:
        child = subprocess.Popen(["sleep", "600"], start_new_session="session" in query)
        return {"body": {"child": child.pid}}
    if "mb" in query:
        block = bytearray(int(query["mb"]) << 20)
        block[::4096] = b"x" * len(block[::4096])
    if "sleep" in query:
        time.sleep(float(query["sleep"]))
    if "stream" in query:
        def pieces():
            for index in range(int(query["stream"])):
                yield f"{index}\\n"
                time.sleep(float(query.get("pause", 0)))
        return Response(pieces(), content_type="text/x-pieces")
    if "raise" in query:
        raise ValueError("as asked")
    if "exit" in query:
        os._exit(int(query["exit"]))
    if "redirect" in query:
        return {"statusCode": 302, "headers": {"Location": query["redirect"]}}
    if "env" in query:
        return {"body": dict(os.environ)}
    if "size" in query:
        return {"body": b"x" * int(query["size"])}
    return {"body": {
        "length": len(event.body), "method": event.method, "path": event.path, "query": event.query.to_dict(),
        "headers": {name.lower(): value for name, value in event.headers}, "pid": os.getpid(),
        "replica": context.hostname, "time": time.time(),
    }}
"""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Return the condition's first true value; fail the test if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"after {seconds:g} s still not: {what}")


@dataclass
class Project:
    """A folder with the template, functions and a stack file."""

    directory: Path
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, handler: str = PROBE, **settings: Any) -> None:
        folder = self.directory / "functions" / name
        folder.mkdir(parents=True)
        (folder / "handler.py").write_text(handler)
        self.functions[name] = {
            "lang": "peerless",
            "handler": f"./functions/{name}",
            "image": f"test/{name}:latest",
            **settings,
        }
        self.write()

    def write(self) -> None:
        stack = {"version": "1.0", "provider": {"name": "openfaas"}, "functions": self.functions}
        (self.directory / "stack.yml").write_text(json.dumps(stack))


@dataclass
class LiveGateway:
    """One `localfaas serve` on one state directory; may be started again."""

    project: Project
    state_dir: Path
    options: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    """Of its command line, such as a shell that sets a limit first."""
    process: subprocess.Popen[str] | None = None
    url: str = ""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `localfaas` command on this state directory."""
        return subprocess.run(
            [sys.executable, "-m", "localfaas", *arguments, "--state-dir", str(self.state_dir)],
            cwd=self.project.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self) -> None:
        log = (self.state_dir.parent / f"{self.state_dir.name}.log").open("a")
        with log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    sys.executable,
                    "-m",
                    "localfaas",
                    "serve",
                    "--port",
                    "0",
                    "--state-dir",
                    str(self.state_dir),
                ]
                + list(self.options),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("localfaas listens at http://"), f"it said {line!r}"
        self.url = line.split()[3].rstrip(",")

    @property
    def errors(self) -> str:
        return (self.state_dir.parent / f"{self.state_dir.name}.log").read_text()

    @property
    def auth(self) -> tuple[str, str]:
        return "admin", (self.state_dir / "basic-auth-password").read_text()

    def deploy(self) -> None:
        """Build and deploy the project's functions, and wait for their replicas."""
        stack = load_stack(self.project.directory / "stack.yml")
        for function in stack.functions.values():
            build_function(stack, function, StatePaths(self.state_dir))
        deploy_stack(stack, GatewayClient(self.url, self.state_dir / "basic-auth-password"), 30)

    def system(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(
            method, f"{self.url}/system/{path}", **{"auth": self.auth, "timeout": 30, **options}
        )

    def call(
        self, function: str, body: bytes = b"", *, method: str = "POST", **query: Any
    ) -> requests.Response:
        url = f"{self.url}/function/{function}"
        return requests.request(method, url, params=query, data=body, timeout=60, allow_redirects=False)

    def status(self, name: str) -> dict[str, Any]:
        return self.system("GET", f"function/{name}").json()

    def wait_available(self, name: str, replicas: int) -> None:
        wait_for(
            lambda: self.status(name)["availableReplicas"] == replicas,
            f"{replicas} replicas of {name} available",
        )

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with those labels."""
        total = 0.0
        for line in requests.get(f"{self.url}/metrics", timeout=10).text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total += float(value)
        return total

    def replica_pids(self, name: str, number: int) -> list[int]:
        """Return the process ids of a function's replicas, found by their working directory."""

        folder = str((self.state_dir / "build" / name).resolve())

        def find() -> list[int]:
            found = []
            for pid in self.all_pids():
                with contextlib.suppress(psutil.Error):
                    if psutil.Process(pid).cwd() == folder:
                        found.append(pid)
            return found

        wait_for(lambda: len(find()) == number, f"{number} processes of {name}")
        return find()

    def all_pids(self) -> list[int]:
        assert self.process is not None
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        """Return the condition's first true value; see `wait_for`."""
        return wait_for(condition, what, seconds)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None and self.process.stdout is not None
        code = self.process.wait(30)
        self.process.stdout.close()
        self.process = None
        return code


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def make_project(directory: Path) -> Project:
    shutil.copytree(REPOSITORY / "template" / "peerless", directory / "template" / "peerless")
    path = directory / "template" / "peerless" / "template.yml"
    path.write_text(path.read_text().replace("  - peer.learning.warm\n", ""))
    return Project(directory)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture
def make_gateway(project: Project, tmp_path: Path) -> Iterator[Callable[..., LiveGateway]]:
    """Return a factory of gateways on this test's project; what is left of them is killed afterwards."""
    made: list[LiveGateway] = []

    def make(*options: str, state: str = "state") -> LiveGateway:
        gateway = LiveGateway(project, tmp_path / state, options)
        gateway.start()
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        if gateway.process is not None:
            gateway.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    """A gateway for a whole module, with the function `probe` (two replicas) deployed."""
    directory = tmp_path_factory.mktemp("gateway")
    project = make_project(directory)
    project.add("probe", labels=TWO_REPLICAS, environment={"exec_timeout": "20s"})
    live = LiveGateway(project, directory / "state")
    live.start()
    live.deploy()
    yield live
    live.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


@pytest.fixture
def running() -> Callable[[int], bool]:
    return is_running


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_for
