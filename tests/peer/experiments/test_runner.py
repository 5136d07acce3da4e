"""What an experiment runs, in which state it leaves things, and how long it says it will take."""

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
from disks import fill, small_disk
from harness import LocalPlatform, replicas_of
from msgspec.structs import replace

from peer.config import GatewayAddress
from peer.errors import FileNotWritten, GatewayUnreachable, PeerlessError, StoreUnreachable
from peer.experiments import records, runner
from peer.experiments.matrix import Matrix
from peer.experiments.place import OwnPlatform, Place, given_place
from peer.experiments.process import Ended, option_arguments
from peer.experiments.records import CellRecord, Measure
from peer.experiments.runner import Planned, Runner, due, seconds_left
from peer.gateway import Gateway, specification_of
from peer.local.gateway import ready_replicas
from peer.sizes import quantity
from peer.store.retry import Patience, poll, retry
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import free_port

MATRIX = Matrix(
    name="x",
    settings={
        "model": "cnn",
        "model-arguments": {"input_size": 20},
        "peers": 1,
        "rounds": 1,
        "batches-per-round": 1,
        "exchange": "all_gather",
        "evaluate-every": 0,
    },
    axes={"dataset": ["no-such-dataset", "synthetic-640-1x20x20"]},
    variants=("conventional",),
    timeout=120.0,
)


def planned(matrix: Matrix = MATRIX, impossible: str = "") -> list[Planned]:
    from peer.cli.cells import plan

    return [replace_reason(each, impossible) for each in plan(matrix)]


def replace_reason(each: Planned, impossible: str) -> Planned:
    return Planned(each.cell, each.config, impossible or each.impossible)


def record_of(each: Planned, status: str = "ok", seconds: float = 10.0) -> CellRecord:
    cell = each.cell
    return CellRecord(
        id=cell.id,
        experiment="x",
        variant=cell.variant,
        axes=cell.axes,
        settings=cell.settings,
        repeat=cell.repeat,
        seed=cell.seed,
        is_warm_up=False,
        status=status,
        error="",
        started="",
        seconds=seconds,
        config_hash=cell.config_hash,
        versions={},
        load_average=0.0,
    )


def test_due_are_those_that_have_not_ended_and_on_demand_those_that_failed() -> None:
    one, other = planned()
    done = [record_of(one, "failed"), record_of(other)]

    assert due([one, other], [], is_failed_again=False) == [one, other]
    assert due([one, other], done, is_failed_again=False) == []
    assert due([one, other], done, is_failed_again=True) == [one]
    assert due([one, other], [*done, record_of(one)], is_failed_again=True) == []


def test_seconds_left_are_those_of_repeats_else_of_the_variant_else_of_any() -> None:
    matrix = replace(MATRIX, variants=("conventional", "ddp"), repeats=2)
    everything = planned(replace(matrix, axes={"peers": [1, 2]}, settings={}))
    first, *rest = everything
    others = [each for each in rest if each.cell.variant == "ddp"]

    assert seconds_left(everything, []) is None
    assert seconds_left(rest[-1:], [record_of(first, seconds=8.0)]) == 8.0
    done = [record_of(first, seconds=8.0), record_of(others[0], seconds=2.0)]
    assert seconds_left(others[1:], done) == 2.0 * len(others[1:])
    assert seconds_left([replace_reason(rest[0], "no")], done) == 0.0


def test_option_arguments_are_typed_as_on_a_command_line() -> None:
    settings = {"no-adapt": True, "keep-objects": False, "replicas": 2, "model-arguments": {"dropout": 0.0}}

    assert option_arguments(settings) == ["--no-adapt", "--model-arguments", '{"dropout": 0.0}']


@pytest.mark.parametrize(
    ("ended", "retries", "is_disturbed"),
    [
        (Ended(0, ""), {}, False),
        (Ended(0, ""), {"FunctionBusy": 3}, False),
        (Ended(0, ""), {"GatewayUnreachable": 1}, True),
        (Ended(21, "no gateway"), None, True),
        (Ended(27, "a replica failed"), None, False),
        (Ended(None, "ended after 9 s"), None, False),
    ],
)
def test_cell_is_disturbed_by_an_outage_alone(ended: Ended, retries: dict | None, is_disturbed: bool) -> None:
    measured = None
    if retries is not None:
        measured = Measure(1.0, [], samples=1, epochs=1.0, weights_bytes=4, retries=retries)

    assert runner._is_disturbed(ended, measured) == is_disturbed


def test_full_disk_and_wrong_password_end_an_experiment_and_keep_what_there_is() -> None:
    for exit_code in (3, 13, 22, 50):
        with pytest.raises(PeerlessError, match="cells before are kept") as raised:
            runner._check_goes_on(Ended(exit_code, "no room"))
        assert raised.value.exit_code == exit_code


@pytest.fixture
def place(nanio_server) -> Place:
    return Place(nanio_server.new_address(), GatewayAddress(""), outage_seconds=30.0)


@pytest.mark.slow
def test_failed_and_slow_cells_are_written_down_and_do_not_end_the_rest(place: Place, tmp_path: Path) -> None:
    failing, good = planned()
    impossible = replace_reason(failing, "cannot be")
    told: list[CellRecord] = []
    directory = tmp_path / "x"

    with records.begun(directory, b"", records.this_machine()):
        Runner(MATRIX, directory, place, None, None, print).run([failing, impossible, good], told.append)
        hasty = replace(MATRIX, timeout=0.2)
        Runner(hasty, directory, place, None, None, print).run([good], told.append)

    assert records.read_cells(directory) == told
    assert [record.status for record in told] == ["failed", "skipped", "ok", "timed_out"]
    assert "no-such-dataset" in told[0].error
    assert told[2].measured is not None
    assert told[2].measured.samples == 64
    assert told[2].measured.peers[0].cpu_seconds > 0
    assert list(Store(place.store_address).list("runs/")) == []
    assert not list(directory.rglob("model.safetensors"))


def test_cells_on_a_full_disk_keep_those_before(tmp_path: Path) -> None:
    first, second = (record_of(each) for each in planned())
    with small_disk(tmp_path / "disk", 9 << 20) as disk:
        directory = disk / "x"
        with records.begun(directory, b"", records.this_machine()):
            records.append(directory, first)
            fill(disk)
            with pytest.raises(FileNotWritten, match=r"cells\.jsonl"):
                for _ in range(1000):
                    records.append(directory, second)

        assert records.read_cells(directory)[0] == first


def test_place_waits_for_a_gateway_that_is_away_and_says_so() -> None:
    port, said = free_port(), list[str]()
    place = Place(None, GatewayAddress(f"http://127.0.0.1:{port}"), outage_seconds=30.0)  # type: ignore[arg-type]
    started: list[http.server.HTTPServer] = []

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    def come_back(text: str) -> None:
        said.append(text)
        started.append(http.server.HTTPServer(("127.0.0.1", port), Healthy))
        threading.Thread(target=started[0].serve_forever).start()

    place.wait(come_back)

    assert len(said) == 1
    started[0].shutdown()
    started[0].server_close()


def test_place_whose_gateway_stays_away_gives_up() -> None:
    address = GatewayAddress(f"http://127.0.0.1:{free_port()}")

    with pytest.raises(GatewayUnreachable):
        Place(None, address, outage_seconds=0.1).wait(print)  # type: ignore[arg-type]


def test_place_of_somebody_else_is_afterwards_as_it_was(platform: LocalPlatform) -> None:
    gateway = Gateway(platform.gateway)
    gateway.scale("gradient", 2)  # other tests' load may have added some

    with given_place(platform.store_address, platform.gateway, 30.0) as place:
        place.prepare(1)
        gateway.update(limited(gateway.describe("gradient"), 3 << 30))
        place.prepare(3)
        between = gateway.describe("gradient")
        gateway.update(limited(between, 3 << 30))

    after = gateway.describe("gradient")
    assert (between["replicas"], between["limits"]["memory"]) == (3, "2Gi")
    assert (after["replicas"], after["limits"]["memory"]) == (2, "2Gi")
    assert poll(lambda: gateway.describe("gradient")["availableReplicas"] == 2 or None, Patience(60.0))


def test_own_place_gives_each_cell_new_replicas_as_many_as_at_first(platform: LocalPlatform) -> None:
    gateway = Gateway(platform.gateway)
    gateway.scale("gradient", 2)
    retry(lambda: ready_replicas(gateway, "gradient"), Patience(60.0))
    place = OwnPlatform(platform.platform, platform.options, 30.0)
    before = {each.pid for each in replicas_of(platform, "gradient")}
    gateway.scale("gradient", 3)

    place.prepare(None)

    def are_new() -> bool | None:
        return before.isdisjoint({each.pid for each in replicas_of(platform, "gradient")}) or None

    assert before
    assert poll(are_new, Patience(30.0))
    # not 3; other tests' load may have added some before
    assert gateway.describe("gradient")["replicas"] == place.usual_replicas


def limited(description: dict[str, Any], limit_bytes: int) -> dict[str, Any]:
    limits = {**description["limits"], "memory": quantity(limit_bytes)}
    return {**specification_of(description), "limits": limits}


def test_given_place_without_a_store_is_refused_before_anything_runs() -> None:
    nowhere = StoreAddress(f"http://127.0.0.1:{free_port()}", "key", "secret")

    with pytest.raises(StoreUnreachable), given_place(nowhere, GatewayAddress(""), 0.1):
        pass
