"""What changes when invocations run out of memory, decided without a gateway."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from harness import SMALL
from msgspec.structs import replace

from peer.allocation.adaptation import Adapter, described, merged
from peer.allocation.memory_limit import LimitHeld, Rise
from peer.errors import GatewayUnreachable, LostReply, NothingFits, OutOfMemory
from peer.messages import Adaptation

MIB = 1 << 20
RAN_OUT = OutOfMemory("no memory", 64 * MIB)


class FakeLimits:
    """Rises as it is told: the next of `answers`, and after them never."""

    def __init__(self, *answers: Rise | Exception | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def raise_above(self, function: str, ran_out_bytes: int) -> Rise | None:
        self.asked.append((function, ran_out_bytes))
        answer = self.answers.pop(0) if self.answers else LimitHeld("the limit is held")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begin(self) -> None:
        self.asked.clear()


class Bench:
    """An adapter, the changes that it told of, and a clock that the test moves."""

    def __init__(self, *answers: Rise | Exception | None, **changes: object) -> None:
        self.limits = FakeLimits(*answers)
        self.told: list[Adaptation] = []
        self.now = 0.0
        config = replace(SMALL, **changes)
        self.batch_size = config.batch_size
        self.adapter = Adapter(config, 1, self.limits, 60.0, self.told.append, lambda: self.now)

    def run_out(self, function: str = "gradient", error: OutOfMemory = RAN_OUT) -> None:
        with pytest.raises(type(error)), self.noticing(function):
            raise error

    def noticing(
        self, function: str = "gradient", which: tuple[int, int] = (0, 0)
    ) -> AbstractContextManager[int]:
        return self.adapter.noticing(function, self.batch_size if function == "gradient" else 0, which)

    def gives_up(self, function: str, reason: str) -> None:
        text = rf"no memory\. Nothing is left to adapt: the limit is held; {reason}"
        with pytest.raises(NothingFits, match=text), self.noticing(function):
            raise RAN_OUT

    def changes(self) -> list[tuple[str, int, int]]:
        return [(each.what, each.before, each.after) for each in self.told]


def test_one_attempt_without_memory_changes_nothing() -> None:
    bench = Bench(batch_size=16)

    bench.run_out()

    assert bench.changes() == []
    assert bench.adapter.micro_batch == 0


def test_limit_rises_before_a_batch_is_split() -> None:
    bench = Bench(Rise("gradient", 64 * MIB, 128 * MIB), batch_size=16)

    for _ in range(4):
        bench.run_out()

    assert bench.changes() == [("memory_limit", 64 * MIB, 128 * MIB), ("micro_batch", 16, 8)]
    assert bench.limits.asked == [("gradient", 64 * MIB)] * 2
    assert bench.told[0].reason == "gradient ran out of memory 2 times at 64 MiB"


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "sizes"),
    [(16, 0, [8, 4, 2, 1]), (7, 0, [4, 2, 1]), (64, 5, [3, 2, 1]), (6, 50, [3, 2, 1])],
)
def test_batches_are_halved_down_to_single_samples(
    batch_size: int, micro_batch: int, sizes: list[int]
) -> None:
    bench = Bench(batch_size=batch_size, micro_batch=micro_batch)
    found = []

    for _ in sizes:
        bench.run_out()
        bench.run_out()
        found.append(bench.adapter.micro_batch)

    assert found == sizes
    bench.run_out()
    bench.gives_up("gradient", "even single samples do not fit")


@pytest.mark.parametrize(
    ("function", "layer", "reason"),
    [
        ("gradient", "norm (BatchNorm2d)", r"batches of cnn cannot be split: norm \(BatchNorm2d\)"),
        ("evaluate", "", "only batches of gradients can be split"),
        ("aggregate", "", "only batches of gradients can be split"),
    ],
)
def test_what_cannot_be_split_ends_with_the_reason(function: str, layer: str, reason: str) -> None:
    bench = Bench(indivisible_layer=layer)
    bench.run_out(function)

    bench.gives_up(function, reason)

    assert bench.changes() == []


def test_attempt_that_began_at_other_sizes_is_not_counted() -> None:
    bench = Bench(batch_size=16)
    with pytest.raises(OutOfMemory), bench.noticing() as late:
        bench.run_out()
        bench.run_out()
        raise RAN_OUT

    bench.run_out()

    assert late == 0
    assert bench.adapter.micro_batch == 8


def test_attempts_under_another_limit_count_by_themselves() -> None:
    bench = Bench(batch_size=16)
    bench.run_out(error=OutOfMemory("no memory", 64 * MIB))

    bench.run_out(error=OutOfMemory("no memory", 128 * MIB))

    assert bench.changes() == []
    bench.run_out(error=OutOfMemory("no memory", 128 * MIB))
    assert bench.changes() == [("micro_batch", 16, 8)]


LOST = LostReply("502")


def lose(bench: Bench, which: tuple[int, int], kind: type[Exception] = LostReply) -> None:
    with pytest.raises(kind), bench.noticing(which=which):
        raise LOST


def test_second_lost_reply_of_an_invocation_counts_as_an_oom_kill() -> None:
    bench = Bench(batch_size=16)

    lose(bench, (0, 1))
    lose(bench, (0, 2))
    lose(bench, (1, 1))
    before = bench.changes()
    lose(bench, (0, 2), OutOfMemory)

    assert before == []
    assert bench.changes() == [("micro_batch", 16, 8)]
    assert bench.told[0].reason == "the reply of gradient was lost 2 times, as if it ran out of memory"
    lose(bench, (0, 2))
    lose(bench, (0, 2), OutOfMemory)
    assert bench.adapter.micro_batch == 4


def test_lost_reply_may_raise_the_limit_that_the_last_reply_told() -> None:
    bench = Bench(Rise("gradient", 64 * MIB, 128 * MIB))
    bench.adapter.limit_bytes = 64 * MIB

    lose(bench, (0, 1))
    lose(bench, (0, 1), OutOfMemory)

    assert bench.limits.asked == [("gradient", 64 * MIB)]
    assert bench.changes() == [("memory_limit", 64 * MIB, 128 * MIB)]


def test_attempts_that_are_lost_beside_each_other_are_one() -> None:
    bench = Bench(batch_size=16)

    with pytest.raises(LostReply), bench.noticing(which=(0, 1)):
        bench.now += 1.0
        lose(bench, (0, 1))
        raise LOST

    assert bench.changes() == []
    bench.now += 1.0
    lose(bench, (0, 1), OutOfMemory)
    assert bench.changes() == [("micro_batch", 16, 8)]


def test_lost_replies_that_nothing_can_be_adapted_to_are_failures_as_others() -> None:
    bench = Bench(indivisible_layer="norm (BatchNorm2d)")
    lose(bench, (0, 1))

    text = "may have run out of memory.*Nothing is left"
    with pytest.raises(LostReply, match=text) as failure, bench.noticing(which=(0, 1)):
        raise LOST

    assert failure.value.retryable
    assert bench.changes() == []


def test_round_begins_at_the_common_sizes_and_counts_anew() -> None:
    bench = Bench(batch_size=16)
    bench.run_out()

    bench.adapter.begin(5, 4)
    bench.run_out()

    assert bench.adapter.micro_batch == 4
    assert bench.changes() == []
    bench.run_out()
    assert [(each.round, each.before, each.after) for each in bench.told] == [(5, 4, 2)]


def test_limit_that_somebody_else_raises_is_waited_for_and_then_done_without() -> None:
    bench = Bench(*[None] * 6, batch_size=16)

    for _ in range(4):
        bench.run_out()
    waited = bench.changes()
    bench.now += 61.0
    bench.run_out()

    assert waited == []
    assert bench.changes() == [("micro_batch", 16, 8)]


def test_gateway_that_is_away_is_an_outage_and_changes_nothing() -> None:
    bench = Bench(GatewayUnreachable("away"))
    bench.run_out()

    with pytest.raises(GatewayUnreachable), bench.noticing():
        raise RAN_OUT

    assert bench.changes() == []


@pytest.mark.parametrize("trouble", [LimitHeld("no"), GatewayUnreachable("away")])
def test_peer_that_is_asked_for_memory_raises_it_if_it_can(trouble: Exception) -> None:
    bench = Bench(trouble, Rise("gradient", 64 * MIB, 128 * MIB))

    bench.adapter.asked("gradient", 64 * MIB)
    bench.adapter.asked("gradient", 64 * MIB)

    assert bench.changes() == [("memory_limit", 64 * MIB, 128 * MIB)]
    assert bench.told[0].reason == "gradient of another peer ran out of memory at 64 MiB"


@pytest.mark.parametrize(
    ("adaptation", "text"),
    [
        (
            Adaptation("memory_limit", "gradient", 0, 3, 64 * MIB, 128 * MIB, "x"),
            "memory limit of gradient 64 MiB → 128 MiB",
        ),
        (Adaptation("micro_batch", "gradient", 0, 3, 64, 32, "x"), "micro-batch 64 → 32 samples"),
        (Adaptation("in_flight", "gradient", 0, 3, 4, 3, "x", 5), "invocations at once 4 → 3, 5 times"),
    ],
    ids=lambda value: getattr(value, "what", ""),
)
def test_adaptation_is_described_in_a_few_words(adaptation: Adaptation, text: str) -> None:
    assert described(adaptation) == text


def test_equal_adaptations_are_one_with_the_first_reason() -> None:
    made: Callable[..., Adaptation] = Adaptation
    first = made("micro_batch", "gradient", 1, 2, 64, 32, "first")
    others = [
        made("micro_batch", "gradient", 0, 4, 64, 32, "later"),
        made("in_flight", "gradient", 0, 1, 2, 1, "busy"),
        made("micro_batch", "gradient", 0, 4, 32, 16, "more"),
    ]

    found = merged([*others, first])

    assert [(each.what, each.before, each.reason, each.times) for each in found] == [
        ("in_flight", 2, "busy", 1),
        ("micro_batch", 64, "first", 2),
        ("micro_batch", 32, "more", 1),
    ]
