"""The image map, and programs in it that have no template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localfaas.errors import ConfigurationError
from localfaas.images import ImageEntry, canonical_image, find_image, list_images, remove_image, save_image


@pytest.mark.parametrize(
    ("image", "canonical"),
    [
        ("functions/alpine", "functions/alpine:latest"),
        ("docker.io/functions/alpine:latest", "functions/alpine:latest"),
        ("docker.io/library/busybox", "busybox:latest"),
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("a@sha256:00", "a@sha256:00"),
    ],
)
def test_canonical_image_is_that_of_container_engines(image: str, canonical: str) -> None:
    assert canonical_image(image) == canonical == canonical_image(canonical)


def test_entry_saved_is_found_by_every_spelling_and_removed(tmp_path: Path) -> None:
    entry = ImageEntry("functions/alpine:latest", "/tmp", ("cat",), {"mode": "classic"}, ())
    save_image(tmp_path, entry)

    assert find_image(tmp_path, "docker.io/functions/alpine") == entry
    assert list_images(tmp_path) == [entry]
    assert remove_image(tmp_path, "functions/alpine")
    assert not remove_image(tmp_path, "functions/alpine")
    assert find_image(tmp_path, "functions/alpine") is None


def test_entry_of_an_earlier_release_is_found(tmp_path: Path) -> None:
    save_image(tmp_path, ImageEntry("a:latest", "/tmp", ("cat",), {}, ()))
    (path,) = tmp_path.iterdir()
    # The SHA-256 of `docker.io/a`: the name was taken as it was written.
    path.rename(tmp_path / "2132b763b2398fcf33c05d6c371ca7be.json")

    assert find_image(tmp_path, "docker.io/a") is not None


def test_damaged_entry_is_named(tmp_path: Path) -> None:
    save_image(tmp_path, ImageEntry("a:latest", "/tmp", ("cat",), {}, ()))
    (path,) = tmp_path.iterdir()
    path.write_text("{")

    with pytest.raises(ConfigurationError, match=f"{path.name} is damaged"):
        find_image(tmp_path, "a")


def test_program_is_added_listed_deployed_and_removed(
    make_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    gateway = make_gateway()
    (tmp_path / "word").write_text("hello")

    added = gateway.run("image", "add", "my/tool", "--directory", str(tmp_path), "--command", "cat word")
    body = {"service": "tool", "image": "docker.io/my/tool:latest"}

    assert added.returncode == 0, added.stderr
    (listed,) = json.loads(gateway.run("image", "list", "--json").stdout)
    assert listed["command"] == ["cat", "word"]
    assert "my/tool:latest" in gateway.run("image", "list").stdout
    assert gateway.system("POST", "functions", json=body).status_code == 202
    assert gateway.call("tool").text == "hello"
    body["envProcess"] = "tr a-z A-Z"
    assert gateway.system("PUT", "functions", json=body).status_code == 202
    gateway.wait_available("tool", 1)
    assert gateway.call("tool", b"loud").text == "LOUD"
    assert gateway.run("image", "remove", "my/tool").returncode == 0
    again = gateway.run("image", "remove", "my/tool")
    assert (again.returncode, "is unknown" in again.stderr) == (2, True)
    refused = gateway.system("PUT", "functions", json=body)
    assert (refused.status_code, "localfaas image add" in refused.text) == (400, True)
    assert gateway.call("tool", b"still").text == "STILL"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--command", "cat 'x"), "cannot be split"),
        (("--command", " "), "--command is empty"),
        (("--command", "cat", "--directory", "nowhere"), "nowhere is no folder"),
        (("--command", "cat", "--env", "novalue"), "--env is NAME=VALUE"),
        (("--command", "cat", "--mode", "afterburn"), "afterburn"),
    ],
)
def test_program_badly_described_is_refused(
    make_gateway: Callable[..., Any], options: tuple[str, ...], message: str
) -> None:
    done = make_gateway().run("image", "add", "my/tool", *options)

    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr
