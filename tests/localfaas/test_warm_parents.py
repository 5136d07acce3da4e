"""What replicas share, and what they must not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ARENAS = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}


def parent_of(gateway: Any, name: str) -> int:
    return psutil.Process(gateway.replica_pids(name, 1)[0]).ppid()


def test_functions_of_one_early_environment_share_a_warm_parent(
    make_gateway: Callable[..., Any], project: Any
) -> None:
    project.add("first", environment={**ARENAS, "mine": "1"})
    project.add("second", environment={**ARENAS, "mine": "2"})
    project.add("third")
    gateway = make_gateway()
    gateway.deploy()

    first, second, third = (parent_of(gateway, name) for name in ("first", "second", "third"))

    assert first == second != third
    environment = Path(f"/proc/{first}/environ").read_bytes().split(b"\0")
    assert b"GLIBC_TUNABLES=glibc.malloc.arena_max=1" in environment
    assert b"OMP_NUM_THREADS=1" in environment
    assert b"mine=1" not in environment
    assert [gateway.call(name, env=1).json()["mine"] for name in ("first", "second")] == ["1", "2"]


def test_preloaded_module_that_starts_a_thread_is_named_as_the_cause(
    make_gateway: Callable[..., Any], project: Any, until: Callable[..., Any]
) -> None:
    modules = project.directory / "modules"
    modules.mkdir()
    (modules / "starts_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    template = project.directory / "template" / "peerless" / "template.yml"
    template.write_text("language: peerless\nfprocess: python index.py\npreload: [starts_a_thread]\n")
    project.add("probe", environment={"PYTHONPATH": str(modules)})
    gateway = make_gateway()
    for arguments in (["build"], ["deploy", "--gateway", gateway.url]):
        assert gateway.run(arguments[0], "-f", "stack.yml", *arguments[1:]).returncode == 0

    error = until(
        lambda: gateway.status("probe")["annotations"].get("localfaas.last-error"), "an error is shown"
    )

    assert "started 1 threads, and a fork would hang" in error
    assert gateway.call("probe").status_code == 503


def test_function_written_for_newer_modules_than_were_preloaded_says_what_to_do(
    make_gateway: Callable[..., Any], project: Any, tmp_path: Path, until: Callable[..., Any]
) -> None:
    module = tmp_path / "modules" / "shared_part.py"
    module.parent.mkdir()
    module.write_text("OLD = 1\n")
    template = project.directory / "template" / "peerless" / "template.yml"
    template.write_text("language: peerless\nfprocess: python index.py\npreload: [shared_part, flask]\n")
    project.add("first", environment={"PYTHONPATH": str(module.parent)})
    gateway = make_gateway()
    gateway.deploy()
    module.write_text("OLD = 1\nNEW = 2\n")
    handler = "from shared_part import NEW\ndef handle(event, context):\n    return str(NEW)\n"
    project.add("second", handler, environment={"PYTHONPATH": str(module.parent)})

    for arguments in (["build"], ["deploy", "--gateway", gateway.url]):
        assert gateway.run(arguments[0], "-f", "stack.yml", *arguments[1:]).returncode == 0
    error = until(
        lambda: gateway.status("second")["annotations"].get("localfaas.last-error"), "an error is shown"
    )

    assert "cannot import name 'NEW'" in error
    assert f"{module} has changed since the gateway preloaded it: restart the gateway" in error
    gateway.stop()
    gateway.start()
    assert gateway.call("second").text == "2"


def test_preload_that_is_not_installed_is_left_to_the_function(
    make_gateway: Callable[..., Any], project: Any
) -> None:
    template = project.directory / "template" / "peerless" / "template.yml"
    template.write_text(
        "language: peerless\nfprocess: python index.py\npreload: [not_installed_anywhere, flask]\n"
    )
    project.add("probe")
    gateway = make_gateway()

    gateway.deploy()

    assert gateway.call("probe").status_code == 200
    assert "cannot preload not_installed_anywhere" in gateway.errors


def test_replica_finds_only_its_own_descriptors(make_gateway: Callable[..., Any], project: Any) -> None:
    project.add(
        "probe",
        "import os\n\ndef handle(event, context):\n"
        "    return {'body': {n: os.readlink(f'/proc/self/fd/{n}') for n in '0123'}}\n",
    )
    gateway = make_gateway()
    gateway.deploy()

    descriptors = gateway.call("probe").json()

    assert descriptors["0"] == "/dev/null"
    assert descriptors["1"] == descriptors["2"] != descriptors["0"]
    assert descriptors["1"].startswith("pipe:")
    assert descriptors["3"].startswith("socket:")
