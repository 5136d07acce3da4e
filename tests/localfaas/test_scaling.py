"""Decisions about the number of replicas, without a gateway."""

from pathlib import Path
from typing import Any

import pytest

from localfaas.admission import Demand, Machine, read_machine, room_for
from localfaas.errors import BadRequest
from localfaas.scaling import (
    Load,
    ScalingOptions,
    ScalingState,
    decide,
    lowest_replicas,
    parse_scaling_options,
)

MANY = 1_000


class Watched:
    """A function that is decided on once a second, and obeys."""

    def __init__(self, room: int = MANY, floor: int = 0, replicas: int = 1, **options: Any) -> None:
        self.now = 0.0
        self.options = ScalingOptions(**options)
        self.state = ScalingState.fresh(0.0)
        self.replicas, self.floor, self.room = replicas, floor, room
        self.num_started, self.cpu_seconds = 0, 0.0
        self.reason = ""

    def run(self, seconds: int, *, in_flight: int = 0, rps: int = 0, cores: float = 0.0) -> int:
        for _ in range(seconds):
            self.now += 1
            self.num_started += rps
            self.cpu_seconds += cores
            load = Load(self.replicas, self.floor, in_flight, self.num_started, self.cpu_seconds)
            decision = decide(self.now, self.state, self.options, load, self.room)
            self.replicas, self.state, self.reason = decision.replicas, decision.state, decision.reason
        return self.replicas


def test_decide_without_a_type_steps_up_after_five_busy_seconds_and_back_within_a_minute() -> None:
    watched = Watched(max_replicas=10)

    assert watched.run(5, rps=6) == 1
    assert watched.run(1, rps=6) == 3
    assert "requests a second" in watched.reason
    assert watched.run(5, rps=6) == 5
    assert watched.run(60, rps=6) == 10
    assert watched.run(25) == 10
    assert watched.run(35) == 1


@pytest.mark.parametrize(
    "options", [{"min_replicas": 2, "max_replicas": 2, "replicas": 2}, {"factor_percent": 0, "replicas": 2}]
)
def test_decide_without_a_type_is_switched_off_by_equal_bounds_or_factor(options: dict[str, Any]) -> None:
    assert Watched(**options).run(20, rps=100) == 2


def test_decide_below_the_rate_changes_nothing() -> None:
    assert Watched().run(100, rps=5) == 1


@pytest.mark.parametrize(
    ("scale_type", "target", "load", "replicas"),
    [
        ("capacity", 1, {"in_flight": 3}, 3),
        ("capacity", 10, {"in_flight": 11}, 2),
        ("capacity", 1, {"in_flight": 99}, 5),
        ("rps", 20, {"rps": 50}, 3),
        ("cpu", 500, {"cores": 1.2}, 3),
        ("capacity", 10, {}, 1),
    ],
)
def test_decide_with_a_type_follows_the_load(
    scale_type: str, target: float, load: dict[str, Any], replicas: int
) -> None:
    watched = Watched(type=scale_type, target=target)

    assert watched.run(10, **load) == replicas


def test_decide_with_a_type_keeps_what_the_last_minute_needed() -> None:
    watched = Watched(type="capacity", target=1.0)
    watched.run(10, in_flight=4)

    assert watched.run(50) == 4
    watched.run(1, in_flight=3)
    assert watched.run(20) == 3
    assert watched.run(60) == 1


def test_decide_after_a_restart_ends_nothing_for_a_minute() -> None:
    watched = Watched(type="capacity", target=1.0, replicas=4)

    assert watched.run(59) == 4
    assert watched.run(2) == 1


def test_decide_never_goes_above_the_room_nor_down_for_it() -> None:
    assert Watched(type="capacity", target=1.0, room=2).run(10, in_flight=5) == 2
    assert Watched(type="capacity", target=1.0, room=1, replicas=3).run(10, in_flight=5) == 3
    assert Watched(room=2).run(60, rps=50) == 2


def test_decide_never_goes_below_what_an_operator_asked_for() -> None:
    assert Watched(type="capacity", target=1.0, floor=3, replicas=3).run(200) == 3
    assert Watched(floor=3, replicas=3).run(200) == 3


def test_decide_idles_what_was_never_invoked_but_nothing_that_is_busy() -> None:
    watched = Watched(is_idled=True, zero_seconds=10.0, floor=2, replicas=2)

    assert watched.run(30, in_flight=1) == 2
    assert watched.run(9) == 2
    assert watched.run(1) == 0
    assert watched.reason == "no request for 10 s"
    assert watched.run(100, rps=100) == 0, "only a request wakes it"
    assert Watched(is_idled=True, zero_seconds=10.0).run(12) == 0


def test_decide_counts_requests_that_came_and_went_between_looks() -> None:
    watched = Watched(is_idled=True, zero_seconds=3.0)

    assert watched.run(20, rps=1) == 1


def test_lowest_replicas_is_within_the_bounds() -> None:
    assert lowest_replicas(ScalingOptions(min_replicas=0), 0) == 1
    assert lowest_replicas(ScalingOptions(min_replicas=2), 1) == 2
    assert lowest_replicas(ScalingOptions(max_replicas=3), 9) == 3


def test_parse_scaling_options_reads_every_label() -> None:
    values = {"min": "2", "max": "7", "type": "rps", "target": "2.5", "factor": "0", "zero": "true"}
    labels = {f"com.openfaas.scale.{name}": value for name, value in values.items()}

    options = parse_scaling_options({**labels, "com.openfaas.scale.zero-duration": "1m30s"})

    assert options == ScalingOptions(2, 7, "rps", 2.5, 0, True, 90.0)
    assert parse_scaling_options({}) == ScalingOptions(1, 5, None, 50.0, 20, False, 900.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min", "-1"), ("max", "many"), ("type", "queue"), ("target", "0"), ("target", "nan"),
        ("target", "x"), ("factor", "101"), ("zero-duration", "soon"),
    ],
)  # fmt: skip
def test_parse_scaling_options_wrong_label_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=value):
        parse_scaling_options({f"com.openfaas.scale.{name}": value})


GIB = 1 << 30


@pytest.mark.parametrize(
    ("asking", "others", "machine", "room"),
    [
        (Demand(1, 1.0, 0, 0), [], Machine(2, GIB), 2),
        (Demand(2, 1.0, 0, 0), [Demand(1, 1.0, 0, 0)], Machine(2, GIB), 2),
        (Demand(1, 0.1, 0, 0), [], Machine(1, GIB), 10),
        (Demand(1, 0.0, GIB, 0), [], Machine(2, 4 * GIB), 4),
        (Demand(1, 0.0, GIB, GIB // 2), [Demand(2, 0.0, GIB, GIB)], Machine(2, 3 * GIB), 2),
        (Demand(3, 0.0, GIB, GIB), [], Machine(2, 0), 3),
        (Demand(1, 1.0, GIB, GIB), [], Machine(8, 2 * GIB), 3),
        (Demand(1, 0.0, 0, 0), [], Machine(4, GIB), 5),
    ],
)
def test_room_for_counts_what_replicas_may_take(
    asking: Demand, others: list[Demand], machine: Machine, room: int
) -> None:
    assert room_for(asking, others, machine) == room


def test_read_machine_reads_this_one(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       16 kB\nMemAvailable:    8 kB\n")

    assert read_machine(path).available_bytes == 8192
    assert read_machine().available_bytes > 1 << 20
    assert read_machine().cores >= 1
