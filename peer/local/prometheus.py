"""Prometheus beside the platform, with `dashboards/prometheus` and this platform's addresses."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from peer.errors import ConfigurationError, PlatformError
from peer.files import make_folder, replace_file
from peer.local.companions import Companion
from peer.local.platform import Platform
from peer.local.processes import Say
from peer.store.servers import LOOPBACK, ServerKind

DEFAULT_PORT = 9090
FOLDER = Path(__file__).resolve().parents[2] / "dashboards" / "prometheus"
"""Development files: they are in a checkout, not in a wheel."""

_NAME = "prometheus"


@dataclass(frozen=True)
class Scraped:
    """Where the figures are.

    Args:
        gateway_url: of the gateway.
        password_file: has the password of its user `admin`; Prometheus reads it, so it is in no other file.
        page_url: of the live page, which knows the peers.
        store_url: of a store that has metrics; None for one without.
    """

    gateway_url: str
    password_file: Path
    page_url: str
    store_url: str | None


def check_prometheus() -> str:
    """Return the `prometheus` program of this machine, if everything is there to run it.

    Raises:
        PlatformError: it is not installed.
        ConfigurationError: its scrape jobs and rules are not there.
    """
    found = shutil.which(_NAME)
    if found is None:
        raise PlatformError(
            "no `prometheus` program: install it (Debian has a package; https://prometheus.io/download), or "
            "leave out --prometheus: a Prometheus elsewhere can scrape the platform, see dashboards/README.md"
        )
    if not (FOLDER / "prometheus.yml").is_file():
        raise ConfigurationError(f"there is no folder {FOLDER}: --prometheus needs a peerless checkout")
    return found


def run_prometheus(platform: Platform, page_url: str, port: int, say: Say) -> str:
    """Return the address of a Prometheus that scrapes this platform; one that runs already is kept.

    Its data are in the state directory, and stay there. One that is kept is told what has moved.

    Args:
        platform: its store and gateway run.
        page_url: of the platform's live page, which knows the peers.
        port: the wanted one; another is taken, and said, if it is in use.
        say: told where it is.

    Raises:
        PlatformError: it is not installed, does not start, or there is nothing to scrape. None of it is left.
        ConfigurationError: its scrape jobs and rules are not there.
    """
    program = check_prometheus()
    directory = platform.state_dir.absolute() / _NAME
    make_folder(directory)
    config_path = directory / "prometheus.yml"
    text = yaml.safe_dump(config_for(_scraped(platform, page_url)), sort_keys=False)
    is_new = not config_path.is_file() or config_path.read_text() != text
    replace_file(config_path, text.encode())
    before = platform.state().companions.get(_NAME)
    url = platform.accompany(_companion(program, directory, config_path, port), say)
    after = platform.state().companions[_NAME]
    if is_new and before is not None and before.process == after.process:
        os.kill(after.process.pid, signal.SIGHUP)
    return url


def config_for(scraped: Scraped) -> dict[str, Any]:
    """Return the configuration of `dashboards/prometheus/prometheus.yml` with these addresses."""
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["localfaas"] |= {
        "static_configs": _targets(scraped.gateway_url),
        "basic_auth": {"username": "admin", "password_file": str(scraped.password_file.absolute())},
    }
    jobs["peers"]["http_sd_configs"][0]["url"] = f"{scraped.page_url}/api/targets"
    if scraped.store_url is None:
        config["scrape_configs"].remove(jobs["store"])
    else:
        jobs["store"]["static_configs"] = _targets(scraped.store_url)
    return config


def _targets(url: str) -> list[dict[str, list[str]]]:
    return [{"targets": [url.removeprefix("http://")]}]


def _scraped(platform: Platform, page_url: str) -> Scraped:
    state = platform.state()
    if state.gateway is None or state.store is None:
        raise PlatformError("there is nothing to scrape: run `peerless up`")
    # nanio has no metrics of its own
    store_url = state.store.endpoint if state.store.kind == ServerKind.MINIO else None
    return Scraped(state.gateway.url, platform.password_file, page_url, store_url)


def _companion(program: str, directory: Path, config_path: Path, port: int) -> Companion:
    def command(port: int) -> list[str]:
        return [
            program,
            f"--config.file={config_path}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
            "--log.level=warn",
        ]

    return Companion(_NAME, port, command, "/-/ready")
