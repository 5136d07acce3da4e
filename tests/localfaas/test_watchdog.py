"""Functions that are one process a request, under the watchdogs' contract."""

import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from localfaas.runtimes.watchdog import request_environment
from localfaas.stack import load_template

CLASSIC = "FROM ghcr.io/openfaas/classic-watchdog:0.3.1 AS watchdog\nFROM scratch\n"
OF_WATCHDOG = 'FROM ghcr.io/openfaas/of-watchdog:0.10.4 AS watchdog\nENV a=1 mode="{}"\n'


def add_template(project: Any, name: str, dockerfile: str) -> None:
    folder = project.directory / "template" / name
    folder.mkdir(parents=True)
    (folder / "template.yml").write_text(f"language: {name}\nfprocess: cat\n")
    (folder / "Dockerfile").write_text(dockerfile)


@pytest.fixture
def forking(make_gateway: Callable[..., Any], project: Any) -> Callable[..., Any]:
    """Return a function that starts a gateway with a function `fn` of one mode and command."""

    def start(mode: str, fprocess: str = "cat", **settings: Any) -> Any:
        dockerfile = CLASSIC if mode == "classic" else OF_WATCHDOG.format(mode)
        add_template(project, "shell", dockerfile)
        project.add("fn", lang="shell", fprocess=fprocess, **settings)
        gateway = make_gateway()
        gateway.deploy()
        return gateway

    return start


def test_template_has_the_mode_of_its_dockerfile(project: Any) -> None:
    for number, (dockerfile, mode) in enumerate(
        [
            (CLASSIC, "classic"),
            (OF_WATCHDOG.format("http"), "http"),
            ("ENV mode streaming\n", "streaming"),
            ("FROM x\nENV model=a\n# ENV mode=static\n", ""),
        ]
    ):
        add_template(project, f"t{number}", dockerfile)

        assert load_template(project.directory, f"t{number}").mode == mode
    assert load_template(project.directory, "peerless").mode == ""


def test_request_environment_has_the_watchdogs_names() -> None:
    headers = {"content-type": "a/b", "X-Call-Id": "7", "x-bad": "a\0b"}

    assert request_environment("PUT", "/a%20b?x=1&y", headers, 3) == {
        "Http_Method": "PUT", "Http_Path": "/a%20b", "Http_Query": "x=1&y", "Http_Content_Length": "3",
        "Http_ContentLength": "3", "Http_Content_Type": "a/b", "Http_X_Call_Id": "7",
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["classic", "serializing", "streaming"])
def test_command_gets_the_body_and_its_output_is_the_reply(forking: Callable[..., Any], mode: str) -> None:
    gateway = forking(mode)
    long_body = bytes(range(256)) * (12 << 10)

    short = requests.put(
        f"{gateway.url}/function/fn", data=b"abc", headers={"Content-Type": "text/own"}, timeout=30
    )

    assert (short.status_code, short.content) == (200, b"abc")
    expected = "text/own" if mode == "classic" else "application/octet-stream"
    assert short.headers["Content-Type"] == expected
    assert gateway.call("fn").content == b""
    assert gateway.call("fn", long_body).content == long_body
    chunked = (long_body[start : start + 100_000] for start in range(0, len(long_body), 100_000))
    assert gateway.call("fn", chunked).content == long_body
    assert requests.head(f"{gateway.url}/function/fn", timeout=30).status_code == 200
    logs = gateway.system("GET", "logs?name=fn").text
    assert "Forking fprocess." in logs
    assert "Wrote 3 Bytes" in logs


def test_command_finds_the_request_in_its_environment(forking: Callable[..., Any]) -> None:
    gateway = forking("classic", "env", environment={"own": "variable", "content_type": "text/plain"})

    reply = requests.get(f"{gateway.url}/function/fn/a/b?x=1", headers={"X-Own": "header"}, timeout=30)

    variables = dict(line.split("=", 1) for line in reply.text.splitlines())
    assert reply.headers["Content-Type"] == "text/plain"
    assert (variables["Http_Method"], variables["Http_Path"], variables["Http_Query"]) == (
        "GET",
        "/a/b",
        "x=1",
    )
    assert (variables["Http_X_Own"], variables["own"]) == ("header", "variable")
    assert variables["Http_X_Call_Id"] == reply.headers["X-Call-Id"]
    assert not [name for name in variables if name.startswith("LISTEN_")]


@pytest.mark.parametrize("mode", ["classic", "serializing", "streaming"])
def test_command_that_fails_is_a_500_and_the_replica_stays(forking: Callable[..., Any], mode: str) -> None:
    gateway = forking(mode, "sh -c 'echo why >&2; exit 3'")

    first, second = gateway.call("fn"), gateway.call("fn")

    assert (first.status_code, second.status_code) == (500, 500)
    assert first.text == ("why\n" if mode == "classic" else "exit status 3\n")
    assert first.headers["X-Replica"] == second.headers["X-Replica"]
    if mode != "classic":
        assert "why" in gateway.system("GET", "logs?name=fn").text


def test_streaming_passes_on_what_is_there(forking: Callable[..., Any]) -> None:
    gateway = forking("streaming", "sh -c 'echo first; sleep 3; echo last'")
    started_at = time.monotonic()

    with requests.post(f"{gateway.url}/function/fn", stream=True, timeout=30) as reply:
        pieces = reply.iter_content(None)

        assert next(pieces) == b"first\n"
        assert time.monotonic() - started_at < 2.5


def test_streaming_that_fails_within_its_reply_breaks_the_connection(forking: Callable[..., Any]) -> None:
    gateway = forking("streaming", "sh -c 'echo first; exit 1'")
    parts = urlsplit(gateway.url)

    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"POST /function/fn HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        reply = connection.makefile("rb").read()

    assert b"first" in reply
    assert not reply.endswith(b"0\r\n\r\n"), "a cut-off reply must not look complete"


def test_command_beyond_its_exec_timeout_is_a_504_and_leaves_no_process(
    forking: Callable[..., Any], until: Callable[..., Any]
) -> None:
    gateway = forking("classic", "sleep 600", environment={"exec_timeout": "300ms"})

    reply = gateway.call("fn")

    assert (reply.status_code, reply.json()["error"]) == (504, "timeout")
    gateway.wait_available("fn", 1)
    until(lambda: len(gateway.replica_pids("fn", 1)) == 1, "only the new replica is left")


def test_command_that_is_killed_costs_its_replica(forking: Callable[..., Any]) -> None:
    # Doubled: a stack file's `$$` stands for `$`.
    gateway = forking("serializing", "sh -c 'kill -9 $$$$'")

    reply = gateway.call("fn")

    assert (reply.status_code, reply.json()["error"]) == (502, "replica_lost")


@pytest.mark.parametrize("enforcement", ["auto", "rlimit"])
def test_command_out_of_memory_is_a_507(
    make_gateway: Callable[..., Any], project: Any, enforcement: str
) -> None:
    add_template(project, "shell", CLASSIC)
    hungry = "python -c 'import time; block = b\"x\" * (300 << 20); time.sleep(2)'"
    project.add("fn", lang="shell", fprocess=hungry, limits={"memory": "80Mi"})
    gateway = make_gateway("--memory-enforcement", enforcement)
    gateway.deploy()

    reply = gateway.call("fn")

    assert (reply.status_code, reply.json()["error"]) == (507, "out_of_memory")
    assert reply.json()["limit_bytes"] == 80 << 20
    gateway.wait_available("fn", 1)


def test_deployment_may_set_the_mode_and_an_unknown_one_is_refused(forking: Callable[..., Any]) -> None:
    gateway = forking("classic", "wc -c", environment={"mode": "streaming"})

    assert gateway.call("fn", b"abc").text.strip() == "3"
    body = {"service": "fn", "image": "test/fn:latest", "envVars": {"mode": "static"}}
    refused = gateway.system("PUT", "functions", json=body)
    assert (refused.status_code, "mode 'static' is not served" in refused.text) == (400, True)


def test_build_of_an_unserved_mode_says_so(make_gateway: Callable[..., Any], project: Any) -> None:
    add_template(project, "still", OF_WATCHDOG.format("static"))
    project.add("fn", lang="still")

    done = make_gateway().run("build", "-f", "stack.yml")

    assert (done.returncode, "mode 'static'" in done.stderr) == (2, True)
