"""What the page's server answers, to whom, and what it does when its sources are not there."""

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
from conftest import StoreServer
from pages import FakeGateway, Runs, StartPage, until

from peer.store.servers import free_port

pytestmark = pytest.mark.slow


def test_targets_are_the_running_peers_that_serve_metrics(start_page: StartPage, runs: Runs) -> None:
    runs.create("digits", num_peers=4)
    runs.beat("digits", 0, 1, metrics_url="http://10.0.0.5:9100/metrics")
    runs.beat("digits", 1, 1, metrics_url="https://peer.example/somewhere/metrics")
    runs.beat("digits", 2, 1, metrics_url="")
    runs.beat("digits", 3, 1, metrics_url="http://10.0.0.6:9100/metrics", state="finished")
    runs.create("letters", num_peers=1)
    runs.beat("letters", 0, 7, metrics_url="http://[::1]:9100/metrics")
    page = start_page(*runs.options)

    found = until(lambda: page.get("/api/targets").json())

    assert found == [
        {"targets": ["10.0.0.5:9100"], "labels": {"run": "digits", "peer": "0"}},
        {
            "targets": ["peer.example:443"],
            "labels": {
                "run": "digits",
                "peer": "1",
                "__scheme__": "https",
                "__metrics_path__": "/somewhere/metrics",
            },
        },
        {"targets": ["[::1]:9100"], "labels": {"run": "letters", "peer": "0"}},
    ]


def test_run_without_metrics_has_no_targets_and_the_page_says_so(start_page: StartPage, runs: Runs) -> None:
    runs.create("digits", num_peers=2)
    for rank in range(2):
        runs.beat("digits", rank, 1, metrics_url="")
    page = start_page(*runs.options)

    until(lambda: page.state()["run"] and page.state()["run"]["status"] == "running")
    until(lambda: "no peer that runs now serves metrics" in page.source("peers").get("text", ""))

    assert page.source("peers")["status"] == "absent"
    assert page.get("/api/targets").json() == []


def test_page_without_anything_says_what_is_missing(start_page: StartPage) -> None:
    page = start_page()

    until(lambda: "no gateway: start one with" in page.source("gateway").get("text", ""))

    assert page.source("store")["text"].startswith("no store: start one with `peerless up`")
    assert page.source("files")["status"] == "absent"
    assert page.state()["run"] is None
    assert page.state()["findings"] == []
    assert page.get("/api/targets").json() == []
    assert page.get("/").status_code == 200


def test_store_that_cannot_be_reached_is_said_and_targets_are_empty(
    start_page: StartPage, runs: Runs
) -> None:
    options = ["--store", f"http://127.0.0.1:{free_port()}", *runs.options[2:]]
    page = start_page(*options)

    until(lambda: page.source("store")["status"] == "failed")

    assert "is the store running?" in page.source("store")["text"]
    assert [finding["subject"] for finding in page.state()["findings"]] == ["store"]
    assert page.get("/api/targets").json() == []


def test_run_that_is_not_there_has_exit_code_2(runs: Runs, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "peer", "dashboard", "nosuch", "--port", "0", *runs.options]
    done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr == "peerless: there is no run 'nosuch': `peerless runs list` shows those that are\n"


def test_wanted_run_is_shown_and_others_are_not_followed(start_page: StartPage, runs: Runs) -> None:
    runs.create("digits")
    page = start_page("digits", *runs.options)
    until(lambda: page.state()["run"])

    runs.create("letters")
    runs.beat("letters", 0, 1)
    until(lambda: page.get("/api/targets").status_code == 200)

    assert page.state()["run"]["name"] == "digits"
    assert page.state()["run"]["status"] == "created"
    assert page.state()["is_following"] is False


def test_newest_run_is_shown_until_another_begins(start_page: StartPage, runs: Runs) -> None:
    runs.create("digits")
    runs.beat("digits", 0, 1, state="finished")
    page = start_page(*runs.options)
    until(lambda: page.state()["run"] and page.state()["run"]["name"] == "digits")

    runs.create("letters")
    runs.beat("letters", 0, 1)

    until(lambda: page.state()["run"]["name"] == "letters")
    assert page.state()["run"]["status"] == "running"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_than_get_are_refused(start_page: StartPage, method: str) -> None:
    page = start_page()

    for path in ("/", "/api/state", "/api/events", "/api/targets"):
        answer = requests.request(method, page.url + path, timeout=20)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_every_answer_has_a_strict_policy(start_page: StartPage) -> None:
    page = start_page()

    for path in ("/", "/static/index.html", "/api/state", "/nosuch", "/static/../app.py", "/healthz"):
        headers = page.get(path).headers
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
    assert page.get("/static/%2e%2e/app.py").status_code == 404


def test_name_of_another_host_is_refused_on_loopback(start_page: StartPage) -> None:
    page = start_page()

    answers = [
        page.get("/api/state", headers={"Host": host}).status_code
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost", "[::1]:80")
    ]

    assert answers == [403, 403, 403, 200, 200]


def test_page_elsewhere_asks_for_the_gateways_password(
    start_page: StartPage, gateway: FakeGateway, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    page = start_page("--host", "0.0.0.0", "--gateway", gateway.url, "--gateway-password-file", password)

    without = page.get("/api/state")
    wrong = [page.get("/api/state", auth=pair) for pair in (("admin", "x"), ("root", "correct horse"))]
    malformed = page.get("/api/state", headers={"Authorization": "Basic !!!"})
    right = page.get("/api/state", auth=("admin", "correct horse"))
    others = [page.get(path) for path in ("/", "/api/events", "/api/targets", "/static/index.html")]

    assert without.status_code == 401
    assert without.headers["WWW-Authenticate"].startswith("Basic ")
    assert [answer.status_code for answer in (*wrong, malformed, *others)] == [401] * 7
    assert right.status_code == 200


def test_page_elsewhere_without_a_password_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "peer", "dashboard", "--host", "0.0.0.0", "--state-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 2
    assert "asks for the gateway's password, which is not known" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_port_in_use_is_an_error_if_it_was_asked_for(start_page: StartPage, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "peer",
            "dashboard",
            "--port",
            str(port),
            "--state-dir",
            str(tmp_path),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 50
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr


def events(answer: requests.Response) -> list[str]:
    """Return the lines of the first state that comes."""
    lines: list[str] = []
    for line in answer.iter_lines(decode_unicode=True):
        lines.append(line)
        if line.startswith("data: "):
            break
    return lines


def test_events_carry_states_and_say_when_to_come_back(start_page: StartPage) -> None:
    page = start_page()

    with page.get("/api/events", stream=True) as answer:
        lines = events(answer)

    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert lines[0] == "retry: 1000"
    assert re.fullmatch(r"id: \d+", lines[2])
    assert lines[3] == "event: state"
    assert lines[4].startswith('data: {"api":1,')


def test_browsers_that_leave_leave_no_thread_and_no_descriptor(start_page: StartPage) -> None:
    page = start_page()
    process = Path(f"/proc/{page.process.pid}")

    def used() -> tuple[int, int]:
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    def look() -> None:
        with page.get("/api/events", stream=True) as answer:
            assert len(events(answer)) == 5

    look()
    page.state()
    before = used()
    browsers = [threading.Thread(target=look) for _ in range(20)]
    for browser in browsers:
        browser.start()
    for browser in browsers:
        browser.join()

    until(lambda: used()[1] <= before[1])
    # the threads of a bounded pool may have been started meanwhile
    assert used()[0] <= before[0] + 4


def test_too_many_browsers_are_told_to_come_back(start_page: StartPage) -> None:
    page = start_page()
    opened = [page.get("/api/events", stream=True) for _ in range(65)]

    codes = [answer.status_code for answer in opened]
    for answer in opened:
        answer.close()

    assert codes == [200] * 64 + [503]
    until(lambda: page.get("/api/events", stream=True).status_code == 200)


def test_signal_ends_the_page_with_browsers_that_watch(start_page: StartPage) -> None:
    page = start_page()
    with page.get("/api/events", stream=True) as answer:
        events(answer)

        code = page.end(signal.SIGTERM)

    assert code == 0
    assert page.log.count("\n") == 1


def test_metrics_that_are_none_break_nothing(
    start_page: StartPage, gateway: FakeGateway, runs: Runs, nanio_server: StoreServer
) -> None:
    gateway.metrics = "<html>this is no page of metrics</html> {{{"
    runs.create("digits", num_peers=1)
    runs.beat("digits", 0, 1, metrics_url=f"{gateway.url}/metrics")
    page = start_page(*runs.options, "--gateway", gateway.url)

    until(lambda: page.source("peers")["status"] == "failed")

    assert "is no page of metrics" in page.source("gateway")["text"]
    assert "is no page of metrics" in page.source("peers")["text"]
    assert page.state()["run"]["name"] == "digits"
