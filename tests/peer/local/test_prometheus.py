"""`peerless up --prometheus`: what Prometheus is told, and what is said where it is not installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from harness import LocalPlatform
from parts import program
from prometheus_api import PrometheusApi

from peer.cli.dashboard import page
from peer.local.prometheus import Scraped, config_for, run_prometheus
from peer.store.retry import Patience, poll
from peer.store.servers import free_port


def jobs_of(config: dict) -> dict:
    return {job["job_name"]: job for job in config["scrape_configs"]}


def test_config_has_the_platforms_addresses_and_the_password_by_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    scraped = Scraped("http://127.0.0.1:1", secret, "http://127.0.0.1:2", "http://127.0.0.1:3")

    config = config_for(scraped)

    jobs = jobs_of(config)
    assert jobs["localfaas"]["static_configs"] == [{"targets": ["127.0.0.1:1"]}]
    assert jobs["localfaas"]["basic_auth"] == {"username": "admin", "password_file": str(secret)}
    assert jobs["peers"]["http_sd_configs"][0]["url"] == "http://127.0.0.1:2/api/targets"
    assert jobs["store"]["static_configs"] == [{"targets": ["127.0.0.1:3"]}]
    assert all(Path(name).is_file() for name in config["rule_files"])


def test_config_for_a_store_without_metrics_has_no_job_for_it(tmp_path: Path) -> None:
    scraped = Scraped("http://127.0.0.1:1", tmp_path / "password", "http://127.0.0.1:2", None)

    assert "store" not in jobs_of(config_for(scraped))


@pytest.fixture
def nanio_platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    platform = LocalPlatform(tmp_path, store_server="nanio")
    platform.up()
    yield platform
    platform.down()


@pytest.mark.slow
def test_prometheus_scrapes_the_platform_and_is_told_what_has_moved(nanio_platform: LocalPlatform) -> None:
    program("prometheus", "Debian's package prometheus has it")
    platform = nanio_platform.platform
    page_url = platform.accompany(page(platform.state_dir, free_port()), print)
    folder = platform.state_dir / "prometheus"

    url = run_prometheus(platform, page_url, free_port(), print)
    again = run_prometheus(platform, "http://127.0.0.1:9/moved", free_port(), print)

    def has_moved() -> bool:
        shown = requests.get(f"{url}/api/v1/status/config", timeout=30).json()["data"]["yaml"]
        return "127.0.0.1:9/moved/api/targets" in shown

    def is_scraped() -> bool:
        return any(sample.value == 1 for sample in PrometheusApi(url).now('up{job="localfaas"}'))

    patience = Patience(total_seconds=120.0, longest_seconds=0.5)
    assert again == url
    assert poll(lambda: has_moved() or None, patience)
    assert poll(lambda: is_scraped() or None, patience)
    assert (folder / "data").is_dir()
    assert platform.password_file.read_text().strip() not in (folder / "prometheus.yml").read_text()
    assert yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
