"""`localfaas build --runtime docker`: images of a stack file's functions."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from docker_images import docker

pytestmark = pytest.mark.slow

DOCKERFILE = """ARG BASE
FROM ${BASE}
ARG NOTE OTHER
ENV note=${NOTE} other=${OTHER}
COPY function/ /function/
"""


@pytest.fixture
def built_image() -> Iterator[str]:
    name = f"localfaas-test-{uuid4().hex[:12]}/fn:1"
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture
def stack_project(project: Any, built_image: str) -> Any:
    template = project.directory / "template" / "probe"
    (template / "function").mkdir(parents=True)
    (template / "template.yml").write_text("language: probe\nfprocess: sh /probe.sh\n")
    (template / "Dockerfile").write_text(DOCKERFILE)
    args = {"NOTE": "of the stack", "OTHER": "of the stack"}
    project.add("fn", "handler", lang="probe", image=built_image, build_args=args)
    return project


def build(gateway: Any, *options: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = gateway.run("build", *options)
    return done


def test_image_of_a_template_serves(gateway: Any, stack_project: Any, built_image: str, image: str) -> None:
    arguments = ["--build-arg", f"BASE={image}", "--build-arg", "NOTE=of the command"]

    done = build(gateway, "--runtime", "docker", *arguments)

    assert done.returncode == 0, done.stderr
    assert f"fn built as image {built_image}" in done.stdout and "Step 1/" in done.stderr
    assert gateway.run("deploy", "--gateway", gateway.url, "--wait", "60").returncode == 0
    lines = gateway.call("fn", env="").text.splitlines()
    assert {"note=of the command", "other=of the stack", "fprocess=sh /probe.sh"} <= set(lines)


def test_image_of_a_template_has_the_handler(
    gateway: Any, stack_project: Any, built_image: str, image: str
) -> None:
    assert build(gateway, "--runtime", "docker", "--build-arg", f"BASE={image}").returncode == 0

    body = {"service": "fn", "image": built_image, "envVars": {"secret_mount_path": "/function"}}
    assert gateway.system("POST", "functions", json=body).status_code == 202

    assert gateway.call("fn", secret="handler.py").text == "handler"


def test_image_of_a_dockerfile_needs_no_template(
    gateway: Any, project: Any, built_image: str, image: str
) -> None:
    project.add("fn", lang="dockerfile", image=built_image)
    (project.directory / "functions" / "fn" / "Dockerfile").write_text(f"FROM {image}\nENV own=yes\n")

    done = build(gateway, "--runtime", "docker")

    assert done.returncode == 0, done.stderr
    assert "own=yes" in docker("image", "inspect", built_image)


@pytest.mark.parametrize(
    ("dockerfile", "options", "words"),
    [
        ("FROM {image}\nRUN exit 4\n", ["--runtime", "docker"], "non-zero code: 4"),
        ("FROM {image}\nNONSENSE\n", ["--runtime", "docker"], "NONSENSE"),
        (None, ["--runtime", "docker"], "has no Dockerfile"),
        ("FROM {image}\n", ["--runtime", "docker", "--build-arg", "NAME"], "--build-arg is NAME=VALUE"),
        ("FROM {image}\n", ["--build-arg", "NAME=1"], "add --runtime docker"),
        ("FROM {image}\n", [], "localfaas build --runtime docker"),
    ],
)
def test_image_that_cannot_be_built_says_why(
    project: Any, tmp_path: Path, make_gateway: Callable[..., Any], image: str,
    dockerfile: str | None, options: list[str], words: str,
) -> None:  # fmt: skip
    gateway = make_gateway()
    name = f"localfaas-test-{uuid4().hex[:12]}:1"
    project.add("fn", lang="dockerfile", image=name)
    if dockerfile is not None:
        path = project.directory / "functions" / "fn" / "Dockerfile"
        path.write_text(dockerfile.replace("{image}", image))

    done = build(gateway, *options)

    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not docker("images", "--quiet", name)
