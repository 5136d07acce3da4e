"""Prometheus' files: promtool accepts them, each rule has a case, and what they read is exported."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documented import documented_metrics
from parts import program

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = CHECKOUT / "dashboards" / "prometheus"
RULES = sorted(FOLDER.glob("rules/*.yml"))
CASES = sorted(FOLDER.glob("tests/*.yml"))
# what others export, and the rules read where it is there
FOREIGN = r"(container|kube)_\w+"
# Debian builds Prometheus without it; the rest of a job can be checked all the same
UNCHECKED_DISCOVERY = "kubernetes_sd_configs"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = program("promtool", "Debian's package prometheus has it")
    return subprocess.run([path, *map(str, arguments)], capture_output=True, text=True)


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def names_in(expr: str) -> set[str]:
    """Return the metrics that an expression reads: what stands before a selector, or by itself."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\b(by|on|group_left|group_right|without|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    words = re.findall(r"(?<![\w:])[a-z][\w:]*(?!\w*\s*\()", bare)
    return {word for word in words if "_" in word or ":" in word}


def cases() -> Iterator[dict[str, Any]]:
    for path in CASES:
        yield from yaml.safe_load(path.read_text())["tests"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.name)
def test_configuration_is_one_that_promtool_accepts(path: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    config["rule_files"] = [str(path.parent / name) for name in config["rule_files"]]
    jobs = config["scrape_configs"]
    for job in jobs:
        job.pop(UNCHECKED_DISCOVERY, None)
        for name in ("authorization", "tls_config"):
            # promtool looks whether their files are there, which they are in a cluster only
            job.pop(name, None)
    copy = tmp_path / path.name
    copy.write_text(yaml.safe_dump(config))

    done = promtool("check", "config", copy)

    assert done.returncode == 0, done.stdout + done.stderr
    assert [Path(name).name for name in config["rule_files"]] == ["recording.yml", "alerts.yml"]
    assert all(Path(name).is_file() for name in config["rule_files"])
    assert {"peers", "store", "node"} <= {job["job_name"] for job in jobs}


def test_rules_hold_their_cases() -> None:
    checked = promtool("check", "rules", "--lint-fatal", *RULES)
    tested = promtool("test", "rules", *CASES)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_recording_rule_has_a_case_with_a_value() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}

    tested = {
        name
        for case in cases()
        for query in case.get("promql_expr_test", [])
        if query["exp_samples"]
        for name in names_in(query["expr"])
    }

    assert tested == recorded


def test_each_alert_has_cases_in_which_it_fires_and_in_which_it_does_not() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    fires: Counter[str] = Counter()
    is_silent: Counter[str] = Counter()

    for case in cases():
        for query in case.get("alert_rule_test", []):
            (fires if query["exp_alerts"] else is_silent)[query["alertname"]] += 1

    # before it fires, and after it has
    assert {name: count for name, count in is_silent.items() if count < 2} == {}
    assert set(fires) == set(is_silent) == alerts


def test_alert_says_whom_it_is_about_and_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            subjects = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            assert subjects & {"function_name", "run"}, rule["alert"]
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert len(rule["annotations"]["description"]) > 100, rule["alert"]


def test_rules_read_what_is_documented_or_recorded_before() -> None:
    documented = set(documented_metrics("gateway")) | set(documented_metrics("peer"))
    recorded: set[str] = set()

    for rule in rules_in_order():
        for name in names_in(rule["expr"]):
            of_histogram = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {name, of_histogram} & (documented | recorded) or re.fullmatch(FOREIGN, name), name
        recorded |= {rule["record"]} if "record" in rule else set()


def rules_in_order() -> list[dict[str, Any]]:
    """Return recording rules first: alerts are evaluated in groups of their own."""
    return sorted(rules(), key=lambda rule: "alert" in rule)
