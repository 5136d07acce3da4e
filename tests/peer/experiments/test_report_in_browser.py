"""The report in a browser: nothing leaves it, all of it is there, and a person can read it, on paper, too."""

from collections.abc import Iterator

import experiment_cells as made
import pytest
from browser import PHONE, SCREEN, chromium, open_file
from playwright.sync_api import Browser

from peer.experiments.records import SERVERLESS
from peer.experiments.report.build import default_options, write_report

pytestmark = pytest.mark.slow

A4 = {"width": 794, "height": 1123}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("report") / "made-up"
    failed = made.failed(made.cell(SERVERLESS, batch_size=1024), "<img src=x onerror=alert(1)> " * 3)
    made.write(directory, [*made.matrix(), *made.matrix(peers=4), failed])
    write_report(directory, directory, default_options())
    return (directory / "report.html").as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
def test_report_opens_without_a_network_and_can_be_read(
    browser: Browser, page_url: str, size: dict[str, int], theme: str
) -> None:
    tab = open_file(browser, page_url, size, theme)

    assert tab.hosts == {""}
    assert tab.errors == []
    assert tab.illegible() == []
    plots = tab.page.locator("figure svg")
    assert plots.count() >= 10
    for number in range(plots.count()):
        box = plots.nth(number).bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 100
    assert tab.page.locator(".simulated > .tag").count() >= 10


def test_report_links_lead_to_the_raw_lines(browser: Browser, page_url: str) -> None:
    tab = open_file(browser, page_url)

    tab.page.locator("#improvement td.raw a").first.click()

    target = tab.page.evaluate("document.querySelector(':target').textContent")
    assert "serverless" in target
    assert tab.page.locator("tr:target").is_visible()


def test_report_on_paper_fits_it_in_black(browser: Browser, page_url: str) -> None:
    tab = open_file(browser, page_url, A4, "dark")

    tab.page.emulate_media(media="print", color_scheme="dark")

    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.page.locator("nav").is_visible()
    assert tab.page.pdf(format="A4").startswith(b"%PDF")
