"""deploy/ agrees with stack.yml, the template and peer's defaults: names, ports, timeouts, versions."""

import re
from configparser import RawConfigParser
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from harness import CHECKOUT

from localfaas.namespaces import DEFAULT_NAMESPACE
from localfaas.quantities import parse_duration_seconds
from localfaas.stack import load_stack
from peer.cli.main import cli

DEPLOY = CHECKOUT / "deploy"
README = (DEPLOY / "README.md").read_text()
TEMPLATE = (CHECKOUT / "template/peerless/Dockerfile").read_text()
FUNCTIONS = load_stack(CHECKOUT / "stack.yml", {}).functions
EXEC_SECONDS = {parse_duration_seconds(each.environment["exec_timeout"]) for each in FUNCTIONS.values()}
MINIO_COMMIT = re.search(r"^commit=(\w+)$", (CHECKOUT / "scripts/install-minio.sh").read_text(), re.M)[1]  # type: ignore[index]


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def objects(name: str) -> dict[tuple[str, str], Any]:
    """Return the Kubernetes objects of a file by kind and name."""
    documents = yaml.safe_load_all((DEPLOY / name).read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


@pytest.fixture
def pods() -> Any:
    """The StatefulSet's specification."""
    return objects("kubernetes/minio.yaml")["StatefulSet", "minio"]["spec"]


@pytest.fixture
def unit() -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "minio/minio.service")
    return parser


def test_gateways_wait_longer_than_functions_and_functions_as_long_as_peers() -> None:
    (invocation,) = (each for each in cli.commands["train"].params if each.name == "invocation_timeout")
    kubernetes = read("kubernetes/openfaas-values.yaml")["gateway"]
    commands = " ".join(read("faasd/cloud-config.yaml")["runcmd"])
    faasd = dict(re.findall(r"s/(\w+)=\w+/\1=(\w+)/", commands))
    (provider,) = read("faasd/cloud-config.yaml")["write_files"]

    (seconds,) = EXEC_SECONDS
    assert invocation.default == seconds
    upstream = [kubernetes["upstreamTimeout"], faasd["upstream_timeout"]]
    outer = [kubernetes["readTimeout"], kubernetes["writeTimeout"], faasd["read_timeout"]]
    outer += [faasd["write_timeout"], *re.findall(r"service_timeout=(\w+)", provider["content"])]
    assert len(outer) == 5
    assert seconds < min(map(parse_duration_seconds, upstream))
    assert max(map(parse_duration_seconds, upstream)) < min(map(parse_duration_seconds, outer))


def test_functions_run_as_the_user_and_are_probed_as_the_image_expects() -> None:
    functions = read("kubernetes/openfaas-values.yaml")["functions"]
    probe = functions["livenessProbe"]
    start = int(re.search(r"--start-period=(\d+)s", TEMPLATE)[1])  # type: ignore[index]

    assert functions["setNonRootUser"] and "\nUSER 12000:12000\n" in TEMPLATE
    assert functions["httpProbe"] and "/_/health" in TEMPLATE
    assert probe["initialDelaySeconds"] + probe["periodSeconds"] * probe["failureThreshold"] >= start


def test_functions_may_reach_the_store_where_the_manifests_put_it(pods: Any) -> None:
    service = objects("kubernetes/minio.yaml")["Service", "minio"]
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}"
    (port,) = service["spec"]["ports"]
    (container,) = pods["template"]["spec"]["containers"]

    for function in FUNCTIONS.values():
        assert function.environment["peerless_store_origins"] == f"http://{name}:{port['port']}"
    assert {port["targetPort"]: port["port"]} == {
        each["name"]: each["containerPort"] for each in container["ports"]
    }
    labels = pods["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == pods["selector"]["matchLabels"] == labels
    assert f"http://{name}:{port['port']}" in README


def test_servers_of_the_manifest_know_all_their_drives(pods: Any) -> None:
    headless = objects("kubernetes/minio.yaml")["Service", pods["serviceName"]]
    pod = pods["template"]["spec"]
    (container,) = pod["containers"]
    url = urlsplit(container["args"][-1])
    (drive,) = (each for each in container["volumeMounts"] if each["name"] == "data")

    last = pods["replicas"] - 1
    host = f"minio-{{0...{last}}}.{pods['serviceName']}.openfaas.svc.cluster.local:9000"
    assert (url.netloc, url.path) == (host, drive["mountPath"])
    assert headless["spec"]["clusterIP"] == "None" and headless["spec"]["publishNotReadyAddresses"]
    assert [each["metadata"]["name"] for each in pods["volumeClaimTemplates"]] == ["data"]
    secrets = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each]
    (command,) = re.findall(r"create secret generic (.+)", README)
    assert [each["name"] for each in secrets] == [command.split()[0]] * 2
    assert re.findall(r"--from-\w+=([\w-]+)=", command) == [each["key"] for each in secrets]
    owner = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert f"\nUSER {owner}\n" in (DEPLOY / "minio/Dockerfile").read_text()


def test_policies_let_through_what_is_needed_and_name_what_there_is(pods: Any) -> None:
    policies = objects("kubernetes/network-policy.yaml")
    functions, minio = (policies["NetworkPolicy", name] for name in ("functions", "minio"))
    labels = pods["template"]["metadata"]["labels"]
    (incoming,) = functions["spec"]["ingress"]
    to_store, to_names = functions["spec"]["egress"]
    (store,) = minio["spec"]["ingress"]

    assert functions["metadata"]["namespace"] == DEFAULT_NAMESPACE
    assert minio["metadata"]["namespace"] == "openfaas"
    assert f"\nEXPOSE {incoming['ports'][0]['port']}\n" in TEMPLATE
    assert [each["port"] for each in to_store["ports"] + store["ports"]] == [9000, 9000]
    assert {each["port"] for each in to_names["ports"]} == {53}
    for selector in (minio["spec"]["podSelector"], to_store["to"][0]["podSelector"]):
        assert selector["matchLabels"].items() <= labels.items()
    namespaces = [each["namespaceSelector"] for each in store["from"] if "namespaceSelector" in each]
    allowed = [each["matchLabels"] for each in namespaces]
    assert {"kubernetes.io/metadata.name": DEFAULT_NAMESPACE} in allowed
    (published,) = ("=".join(item) for each in allowed for item in each.items() if "peerless/" in item[0])
    assert f"`{published}`" in README


def test_unit_starts_what_the_steps_install(unit: RawConfigParser) -> None:
    program, *_, drives = unit["Service"]["ExecStart"].split()
    url = urlsplit(drives)

    assert unit["Unit"]["AssertFileIsExecutable"] == program
    assert unit["Unit"]["RequiresMountsFor"] == unit["Service"]["ReadWritePaths"] == url.path
    assert f" {program}\n" in README and f" {url.path}\n" in README
    assert unit["Service"]["EnvironmentFile"] in README
    assert unit["Service"]["User"] == unit["Service"]["Group"] == "minio"
    assert url.netloc == "minio-{1...4}.example:9000"


def test_versions_are_pinned_and_the_same_everywhere() -> None:
    values = (DEPLOY / "kubernetes/openfaas-values.yaml").read_text()
    faasd = (DEPLOY / "faasd/cloud-config.yaml").read_text()
    (image,) = read("kubernetes/kustomization.yaml")["images"]

    assert set(re.findall(r"(?:version|chart) (\d+\.\d+\.\d+)", values + README)) == {"15.0.6"}
    assert set(re.findall(r"--version (\S+)", README)) == {"15.0.6"}
    assert set(re.findall(r"(?:faasd |--branch |version=)(\d+\.\d+\.\d+)", faasd + README)) == {"0.19.7"}
    assert f"{image['newName']}:{image['newTag']}" in README
    assert {image["newTag"], *re.findall(r"commit (\w{12})", README)} == {MINIO_COMMIT}
    assert "latest" not in values + faasd


def test_kustomization_names_every_manifest_and_the_image(pods: Any) -> None:
    kustomization = read("kubernetes/kustomization.yaml")
    (container,) = pods["template"]["spec"]["containers"]

    others = {"kustomization.yaml", "openfaas-values.yaml"}
    assert {*kustomization["resources"]} == {path.name for path in (DEPLOY / "kubernetes").iterdir()} - others
    assert container["image"] == kustomization["images"][0]["name"]


def test_readme_names_every_file() -> None:
    names = {path.name for path in DEPLOY.rglob("*") if path.is_file()} - {"README.md"}

    assert [name for name in names if name not in README] == []
