"""Service times out of cells: simulated with them is what was measured, by other numbers of peers, too."""

from statistics import fmean

import pytest
from experiment_cells import cell
from msgspec.structs import replace

from peer.experiments.report.groups import Group, Repeat
from peer.experiments.simulator.calibration import Shape, service_of, work_of
from peer.experiments.simulator.engine import simulate
from peer.experiments.simulator.model import Platform, Samples, Service, Work, packed

CORES = 2
ONE_MACHINE = Service(
    compute=Samples.always(0.050),
    transfer=Samples.always(0.010),
    call=Samples.always(0.015),
    send=Samples.always(0.020),
    receive=Samples.always(0.010),
)


def measured_of(peers: int, batches: int, replicas: int) -> Repeat:
    """Return the cell that a machine with these service times would leave, functions' waits included."""
    work = Work(peers, 2, packed(batches, 1), in_flight=max(1, replicas // peers))
    found = simulate(Platform(slots=replicas, cores=CORES), ONE_MACHINE, work)
    made = cell("serverless", peers=peers, batch_size=8)
    assert made.measured is not None
    inside = fmean(found.durations)
    rounds = [
        replace(
            each,
            phase_seconds={**each.phase_seconds, "compute": found.mean_compute_seconds, "average": 0.0},
            slowest_seconds={**each.slowest_seconds, "compute": max(found.compute_seconds)},
            function_seconds={"compute": inside - 0.010, "upload": 0.010},
            invocation_seconds={"gradient": found.durations[: peers * batches]},
            samples=peers * batches * 8,
        )
        for each in made.measured.rounds
    ]
    all_inside = sum(sum(each.invocation_seconds["gradient"]) for each in rounds)
    used = replace(made.measured.functions["gradient"], cpu_seconds=all_inside * 0.050 / inside)
    measured = replace(made.measured, rounds=rounds, functions={"gradient": used})
    return Repeat(replace(made, measured=measured), measured)


@pytest.mark.parametrize("peers", [2, 4, 12])
def test_cells_of_busy_processors_predict_any_number_of_peers(peers: int) -> None:
    donor = measured_of(4, 20, replicas=2)
    asked = Shape(batches=60 // peers, invocations=60 // peers, replicas=2)

    service = service_of(donor, 4, Shape(20, 20, 2), CORES)

    assert service.compute.mean == pytest.approx(0.050, rel=0.02)
    # a core's worth of each invocation that is not the function's own computing, wherever it was spent
    assert service.transfer.mean + service.call.mean == pytest.approx(0.025, rel=0.15)
    group = Group([measured_of(peers, 60 // peers, replicas=2)])
    again = simulate(Platform(slots=2, cores=CORES), service, work_of(group, asked, 2))
    assert again.mean_compute_seconds == pytest.approx(group.repeats[0].phase("compute"), rel=0.10)


def test_cells_of_one_replica_show_what_its_place_takes() -> None:
    donor = measured_of(1, 30, replicas=1)

    service = service_of(donor, 1, Shape(30, 30, 1), CORES)

    around = donor.phase("compute") / 30 - 0.050
    assert service.transfer.mean + service.call.mean == pytest.approx(around, rel=0.02)


def test_exchange_of_all_peers_at_once_is_as_long_as_their_processors_make_it() -> None:
    few, many = (
        simulate(Platform(cores=CORES), ONE_MACHINE, Work(peers, 1, (1,), is_local=True)) for peers in (2, 8)
    )
    alone = simulate(Platform(), ONE_MACHINE, Work(8, 1, (1,), is_local=True))

    exchanges = [each.mean_round_seconds - each.mean_compute_seconds for each in (few, many, alone)]
    assert exchanges[2] == pytest.approx(0.020 + 7 * 0.010)
    assert exchanges[1] == pytest.approx(8 * (0.020 + 7 * 0.010) / CORES, rel=0.3)
    assert exchanges[0] < exchanges[1] / 4


def test_service_times_of_no_cpu_seconds_count_all_of_a_peers_time() -> None:
    made = cell("conventional", peers=4, batch_size=8)
    assert made.measured is not None

    service = service_of(Repeat(made, made.measured), 4, Shape(30, 30, 4), CORES)

    inside = made.measured.rounds[0].invocation_seconds["gradient"][0]
    assert service.compute.mean == pytest.approx(inside)
    assert (service.transfer.mean, service.call.mean) == (0.0, 0.0)
