"""Fixtures of the page's tests: its server, what it reads."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from conftest import StoreServer
from pages import FakeGateway, Page, Runs, StartPage, until
from playwright.sync_api import Browser


@pytest.fixture
def start_page(tmp_path: Path) -> Iterator[StartPage]:
    """Starts `peerless dashboard` on an empty state directory, and returns once it answers."""
    pages: list[Page] = []

    def start(*arguments: object, port: int = 0, environment: dict[str, str] | None = None) -> Page:
        log_path = tmp_path / f"page-{len(pages)}.log"
        places = ["--state-dir", tmp_path / "state", "--runs-dir", tmp_path / "runs"]
        command = [sys.executable, "-m", "peer", "dashboard", "--port", port, *places, *arguments]
        with log_path.open("wb") as log_file:
            process = subprocess.Popen(
                [str(word) for word in command],
                stderr=log_file,
                cwd=tmp_path,
                env=os.environ | (environment or {}),
            )
        page = Page(process, log_path)
        pages.append(page)

        def address() -> str:
            assert process.poll() is None, page.log
            said = [line for line in page.log.splitlines() if line.startswith("dashboard http")]
            return said[0].split()[1] if said else ""

        page.url = until(address)
        return page

    yield start
    for page in pages:
        if page.process.poll() is None:
            page.process.kill()
        page.process.wait()


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {"/metrics": fake.metrics, "/system/functions": json.dumps(fake.functions)} | fake.pages
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "").encode())

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def runs(nanio_server: StoreServer, tmp_path: Path) -> Iterator[Runs]:
    found = Runs(nanio_server.new_address(), tmp_path / "runs")
    yield found
    found.store.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; of a module only, since its event loop would be in the way of others' tests."""
    with chromium() as browser:
        yield browser
