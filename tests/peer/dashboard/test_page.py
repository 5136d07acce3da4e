"""The page in a browser: hostile, missing and plentiful things, and that a person can read them."""

import json
import time

import pytest
from browser import PHONE, SCREEN, open_tab
from conftest import StoreServer
from pages import GIBIBYTE, FakeGateway, Runs, StartPage, until
from playwright.sync_api import Browser

from peer.records.phases import PHASES
from peer.store.servers import free_port

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20
HOSTILE = "<img src=x onerror=\"alert('x')\"><b>&amp;\u202egnirts"


def fill(gateway: FakeGateway, runs: Runs) -> None:
    """Put into the page whatever there may be of everything: long names, many peers, each kind of trouble."""
    memory = {
        "pod_memory_working_set_bytes": 230.0 * MEBIBYTE,
        "localfaas_replica_working_set_bytes": 118.0 * MEBIBYTE,
        "localfaas_memory_limit_bytes": 128.0 * MEBIBYTE,
        "localfaas_memory_peak_bytes": 127.0 * MEBIBYTE,
        "localfaas_oom_kills_total": 1234.0,
        "localfaas_replicas_available": 100.0,
        "gateway_service_count": 100.0,
        "localfaas_requests_in_flight": 100.0,
        "localfaas_requests_waiting": 1000.0,
        "localfaas_cold_start_seconds_count": 1234.0,
        "localfaas_cold_start_seconds_sum": 12340.0,
        "pod_cpu_usage_seconds_total": 3.0,
        "localfaas_major_faults_total": 5.0,
    }
    gateway.add_function("gradient", **memory)
    gateway.add_function("f" * 63, **memory | {"localfaas_memory_limit_bytes": 20.0 * GIBIBYTE})
    gateway.add_function("evaluate", gateway_service_count=1, localfaas_replicas_available=0)
    gateway.add_function("aggregate")
    for code in (200, 400, 408, 413, 429, 500, 502, 503, 504, 507):
        label = f'{{function_name="gradient.openfaas-fn",code="{code}"}}'
        gateway.metrics += f"gateway_function_invocation_total{label} 123456\n"
    gateway.metrics += (
        'localfaas_memory_pressure_seconds_total{function_name="gradient.openfaas-fn",kind="some",'
        'source="cgroup-v2"} 12\n'
        'localfaas_memory_reclaims_total{function_name="aggregate.openfaas-fn",source="cgroup-v1"} 7\n'
        'gateway_functions_seconds_bucket{function_name="gradient.openfaas-fn",code="200",le="1.0"} 5\n'
        'gateway_functions_seconds_bucket{function_name="gradient.openfaas-fn",code="200",le="+Inf"} 9\n'
    )
    name = "r" * 64
    runs.create(name, num_peers=16, rounds=100_000)
    began = time.time()
    for number in range(30):
        for peer in range(16):
            slowness = 4.0 if peer == 3 else 1.0
            seconds = {phase: 0.01 * 2**index for index, phase in enumerate(PHASES)}
            runs.write_round(
                name,
                peer,
                number,
                time=began + 1.5 * number,
                phase_seconds=seconds | {"compute": 0.2 * slowness},
                validation_loss=1.0 if number % 5 == 0 else None,
                validation_accuracy=0.5 if number % 5 == 0 else None,
                learning_rate=0.00123456,
                gradient_norm=123.456,
                retries={"OutOfMemory": 11, "FunctionTimedOut": 2},
            )
    for peer in range(16):
        runs.beat(name, peer, 1, host="a-rather-long-host-name.example.internal")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, SCREEN], ids=["390", "1440"])
def test_everything_is_legible(
    browser: Browser,
    start_page: StartPage,
    gateway: FakeGateway,
    runs: Runs,
    size: dict[str, int],
    theme: str,
) -> None:
    fill(gateway, runs)
    page = start_page(*runs.options, "--gateway", gateway.url)

    tab = open_tab(browser, page.url, size, theme)
    until(lambda: tab.text("#run-status") == "running" and tab.page.locator(".lane").count() == 16)
    until(lambda: tab.page.locator(".lane.slow").count() == 1)
    tab.page.locator("summary").click()

    assert tab.illegible() == []
    assert "peer 3" in tab.text("#findings")
    assert tab.errors == []


def test_page_asks_for_nothing_from_elsewhere(browser: Browser, start_page: StartPage) -> None:
    page = start_page()

    tab = open_tab(browser, page.url)

    assert tab.hosts == {page.url.removeprefix("http://")}
    assert tab.errors == []


def test_hostile_names_are_text(
    browser: Browser, start_page: StartPage, gateway: FakeGateway, runs: Runs
) -> None:
    gateway.add_function(HOSTILE, localfaas_memory_limit_bytes=GIBIBYTE, localfaas_oom_kills_total=3)
    label = json.dumps(f"{HOSTILE}.openfaas-fn", ensure_ascii=False)
    code = json.dumps("<script>alert(1)</script>")
    gateway.metrics += f"gateway_function_invocation_total{{function_name={label},code={code}}} 100\n"
    runs.create("digits")
    runs.write_round("digits", 0, 0, retries={HOSTILE: 2})
    runs.beat("digits", 0, 1, state="failed", reason=HOSTILE, host=HOSTILE)
    page = start_page(*runs.options, "--gateway", gateway.url)

    tab = open_tab(browser, page.url)
    until(lambda: tab.page.locator("article.function").count() and tab.text("#run-status") == "failed")

    assert tab.page.locator("article.function h3").text_content() == HOSTILE
    assert HOSTILE in (tab.page.locator("#run-left").text_content() or "")
    assert f"2 × {HOSTILE}" in (tab.page.locator("#retries").text_content() or "")
    assert "100 × <script>alert(1)</script>" in (tab.page.locator("#invocations").text_content() or "")
    assert tab.page.locator("main img, main script, main b b").count() == 0
    assert tab.errors == []


def test_names_in_two_namespaces_are_two_functions(
    browser: Browser, start_page: StartPage, gateway: FakeGateway
) -> None:
    for namespace, num_bytes in (("openfaas-fn", GIBIBYTE), ("dev", 2 * GIBIBYTE)):
        label = f'{{function_name="gradient.{namespace}"}}'
        gateway.metrics += f"localfaas_memory_limit_bytes{label} {num_bytes}\n"
    page = start_page("--gateway", gateway.url)

    tab = open_tab(browser, page.url)
    until(lambda: tab.page.locator("article.function").count() == 2)

    shown = tab.values()["functions"]
    assert {name: values["limit_bytes"][1] for name, values in shown.items()} == {
        "gradient": "limit 1 GiB",
        "gradient.dev": "limit 2 GiB",
    }


def test_nothing_at_all_is_said(browser: Browser, start_page: StartPage) -> None:
    page = start_page()

    tab = open_tab(browser, page.url, PHONE)
    until(lambda: "no gateway: start one with `peerless up`" in tab.text("#functions-empty"))

    assert tab.text("#run-name") == "No run yet"
    assert tab.text("#run-about").startswith("no store: start one with `peerless up`")
    assert tab.text("#peers-empty") == "Peers are shown once a run begins."
    assert tab.illegible() == []
    assert tab.errors == []


def test_run_without_metrics_and_without_a_gateway_is_shown_from_its_files(
    browser: Browser, start_page: StartPage, runs: Runs
) -> None:
    runs.create("digits")
    runs.beat("digits", 0, 1, metrics_url="")
    runs.write_round("digits", 0, 0)
    runs.write_round("digits", 0, 1)
    page = start_page(*runs.options, "--gateway", f"http://127.0.0.1:{free_port()}")

    tab = open_tab(browser, page.url)
    until(lambda: tab.text("#run-round") == "round 2 of 20")
    until(lambda: "is the gateway running? `peerless up` starts it" in tab.text("#functions-empty"))

    assert "no peer that runs now serves metrics" in tab.text("#sources li[data-source=peers]")
    assert tab.page.locator("#sources li[data-source=gateway]").get_attribute("data-status") == "failed"
    assert tab.values()["run"]["run.loss"] == ["1", "1.0000"]
    assert tab.errors == []


def test_store_that_goes_away_leaves_the_run_as_it_was(
    browser: Browser, start_page: StartPage, mortal_server: StoreServer, runs: Runs
) -> None:
    mortal = Runs(mortal_server.new_address(), runs.directory)
    mortal.create("digits")
    mortal.beat("digits", 0, 1)
    mortal.write_round("digits", 0, 0)
    mortal.store.close()
    page = start_page(*mortal.options)
    tab = open_tab(browser, page.url)
    until(lambda: tab.text("#run-round") == "round 1 of 20")

    mortal_server.kill()
    until(lambda: "is the store running?" in tab.text("#findings"))
    mortal.write_round("digits", 0, 1)
    until(lambda: tab.text("#run-round") == "round 2 of 20")
    mortal_server.start()

    until(lambda: "is the store running?" not in tab.text("#findings"))
    assert tab.text("#run-name") == "digits"
    assert tab.errors == []


def test_page_comes_back_with_its_server(browser: Browser, start_page: StartPage) -> None:
    port = free_port()
    page = start_page(port=port)
    tab = open_tab(browser, page.url)

    page.process.kill()
    page.process.wait()
    until(lambda: "The page's server does not answer" in tab.text("#lost"))
    before = tab.page.evaluate("document.body.dataset.at")
    start_page(port=port)

    until(lambda: tab.page.evaluate("document.body.dataset.at") != before)
    assert tab.text("#lost") == ""
    assert tab.text("#link") == "live"
    assert tab.errors == []


def test_browser_that_leaves_breaks_nothing_for_others(
    browser: Browser, start_page: StartPage, gateway: FakeGateway, runs: Runs
) -> None:
    fill(gateway, runs)
    page = start_page(*runs.options, "--gateway", gateway.url)
    stays = open_tab(browser, page.url)

    for _ in range(5):
        leaves = open_tab(browser, page.url)
        leaves.page.context.close()
    before = stays.page.evaluate("document.body.dataset.at")

    until(lambda: stays.page.evaluate("document.body.dataset.at") != before)
    assert stays.errors == []
    assert page.log.count("\n") == 1


def test_theme_is_the_systems_until_another_is_chosen(browser: Browser, start_page: StartPage) -> None:
    page = start_page()
    tab = open_tab(browser, page.url, theme="dark")
    theme = "document.documentElement.dataset.theme"

    seen = [tab.page.evaluate(theme)]
    for _ in range(2):
        tab.page.locator("#theme").click()
        seen.append(tab.page.evaluate(theme))
    tab.page.reload()
    until(lambda: tab.page.evaluate("document.body.dataset.at"))
    tab.page.locator("#theme").click()

    assert seen == ["dark", "light", "dark"]
    assert tab.page.evaluate(theme) == "dark"
    assert "auto" in tab.text("#theme")
