"""The search for the smallest limit that works, against a function whose need is known."""

from hypothesis import given
from hypothesis import strategies as st

from peer.experiments.search import Answer, Bounds, answer, next_limit

MIB = 1 << 20


def search(need: int, bounds: Bounds, tried: dict[int, bool] | None = None) -> dict[int, bool]:
    """Return what was tried until nothing was left to be learnt, of a function that needs so many bytes."""
    tried = {} if tried is None else tried
    while (limit := next_limit(tried, bounds)) is not None:
        assert limit not in tried
        tried[limit] = limit >= need
    return tried


def test_next_limit_halves_until_one_fails_and_then_the_gap() -> None:
    tried = search(90 * MIB, Bounds(512 * MIB, 8 * MIB))

    assert [limit // MIB for limit in tried] == [512, 256, 128, 64, 96, 80, 88]
    assert answer(tried) == Answer(96 * MIB, 88 * MIB)


def test_next_limit_without_one_that_works_gives_up_after_the_largest() -> None:
    tried = search(513 * MIB, Bounds(512 * MIB, 8 * MIB))

    assert tried == {512 * MIB: False}
    assert answer(tried) == Answer(None, 512 * MIB)


def test_next_limit_of_a_function_that_needs_nothing_ends_at_the_resolution() -> None:
    tried = search(1, Bounds(64 * MIB, 8 * MIB))

    assert answer(tried) == Answer(8 * MIB, None)


def test_answer_ignores_a_failure_above_a_limit_that_works() -> None:
    assert answer({512: True, 256: False, 128: True, 64: False}) == Answer(128, 64)


@given(
    st.integers(1, 3000),
    st.integers(2, 2048),
    st.integers(1, 64),
    st.integers(0, 5),
)
def test_search_ends_within_one_resolution_also_when_it_was_interrupted(
    need: int, largest: int, resolution: int, num_tried: int
) -> None:
    bounds = Bounds(largest * MIB, min(resolution, largest - 1) * MIB)
    whole = search(need * MIB, bounds)

    resumed = search(need * MIB, bounds, dict(list(whole.items())[:num_tried]))

    assert resumed == whole
    assert len(whole) <= 2 + 2 * largest.bit_length()
    found = answer(whole)
    if need > largest:
        assert found.working_bytes is None
    else:
        assert found.working_bytes is not None
        assert found.working_bytes >= need * MIB
        assert found.working_bytes - (found.failing_bytes or 0) <= bounds.resolution_bytes
        assert (found.failing_bytes or 0) < need * MIB
