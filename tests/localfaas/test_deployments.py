from pathlib import Path
from typing import Any

import pytest

from localfaas.deployments import DeploymentRecord, DeploymentStore, check_function_name, parse_deployment
from localfaas.errors import BadRequest, ConfigurationError
from localfaas.namespaces import FunctionName

MINIMAL = {"service": "fn", "image": "reg/fn:1"}


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "A", "a.b", "a/b", "..", "a\n", "a\0", "é", "a" * 64, "a_b", None, 3, "a b", "%2e"],
)
def test_check_function_name_hostile_is_refused(name: object) -> None:
    with pytest.raises(BadRequest):
        check_function_name(name)


def test_check_function_name_longest_is_taken() -> None:
    assert check_function_name("a" * 63) == "a" * 63


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ""}, "image is missing"),
        ({"envVars": {"A": 1}}, "envVars has to be an object"),
        ({"envVars": {"A=B": "1"}}, "'A=B'"),
        ({"envVars": {"A": "x\0"}}, "'A'"),
        ({"envVars": {"exec_timeout": "soon"}}, "duration 'soon'"),
        ({"limits": {"memory": "much"}}, "memory limit 'much'"),
        ({"limits": {"cpu": "0"}}, "CPU limit"),
        ({"labels": ["a"]}, "labels has to be an object"),
        ({"labels": {"com.openfaas.scale.min": "two"}}, "whole number"),
        ({"namespace": "../other"}, "namespace '../other'"),
        ({"namespace": ["other"]}, "namespace"),
        ({"secrets": "a"}, "secrets has to be a list"),
    ],
)
def test_parse_deployment_wrong_field_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_deployment({**MINIMAL, **change})


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_parse_deployment_no_object_is_refused(body: object) -> None:
    with pytest.raises(BadRequest, match="JSON object"):
        parse_deployment(body)


def test_parse_deployment_of_a_status_drops_what_only_a_status_has() -> None:
    body = {
        **MINIMAL,
        "labels": {"faas_function": "fn", "mine": "1"},
        "annotations": {"localfaas.last-error": "old", "topic": "x"},
    }

    deployment = parse_deployment(body)

    assert (deployment.labels, deployment.annotations) == ({"mine": "1"}, {"topic": "x"})


@pytest.mark.parametrize(
    ("labels", "replicas"),
    [
        ({}, 1),
        ({"com.openfaas.scale.min": "3"}, 3),
        ({"com.openfaas.scale.min": "9"}, 5),
        ({"com.openfaas.scale.min": "9", "com.openfaas.scale.max": "20"}, 9),
        ({"com.openfaas.scale.min": "0"}, 0),
    ],
)
def test_fresh_record_replicas_follow_the_labels(labels: dict[str, str], replicas: int) -> None:
    assert DeploymentRecord.fresh(parse_deployment({**MINIMAL, "labels": labels})).replicas == replicas


def test_store_record_saved_is_loaded(tmp_path: Path) -> None:
    store = DeploymentStore(tmp_path)
    record = DeploymentRecord.fresh(
        parse_deployment({**MINIMAL, "secrets": ["s"], "limits": {"memory": "1Gi"}, "envVars": {"A": "é"}})
    )

    store.save(record)

    assert DeploymentStore(tmp_path).load() == [record]
    store.remove(FunctionName("fn"))
    assert DeploymentStore(tmp_path).load() == []


def test_store_leaves_nothing_of_what_a_kill_left_half_written(tmp_path: Path) -> None:
    record = DeploymentRecord.fresh(parse_deployment(MINIMAL))
    DeploymentStore(tmp_path).save(record)
    (tmp_path / ".fn.json.k1ll3d").write_text('{"deployment": {}')

    assert DeploymentStore(tmp_path).load() == [record]

    assert [path.name for path in tmp_path.iterdir()] == ["fn.json"]


def test_store_with_a_damaged_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "fn.json").write_text('{"deployment": {}')

    with pytest.raises(ConfigurationError, match=r"fn\.json is damaged"):
        DeploymentStore(tmp_path).load()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 3), (9, 4)])
def test_updated_record_keeps_its_replicas_within_the_bounds(before: int, after: int) -> None:
    labels = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "4"}
    record = DeploymentRecord(parse_deployment(MINIMAL), before, "2026-01-01T00:00:00+00:00")

    updated = record.updated(parse_deployment({**MINIMAL, "labels": labels}))

    assert (updated.replicas, updated.created_at) == (after, record.created_at)
