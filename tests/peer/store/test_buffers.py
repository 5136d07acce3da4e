"""Buffers: taken again once nothing refers to what was in them, and never before."""

import gc
from concurrent.futures import ThreadPoolExecutor

import torch

from peer.store.buffers import Buffers

MIB = 1 << 20


def tensor_on(view: memoryview) -> torch.Tensor:
    return torch.frombuffer(view, dtype=torch.uint8)


def test_take_gives_writable_memory_of_the_length_asked_for() -> None:
    view = Buffers().take(3_000_000)

    view[:] = bytes(3_000_000)
    assert (len(view), view.format, view.readonly, view.contiguous) == (3_000_000, "B", False, True)
    assert len(Buffers().take(0)) == 0


def test_take_gives_the_same_memory_again_once_nobody_uses_it() -> None:
    buffers = Buffers()
    view = buffers.take(2 * MIB)
    view[0] = 77
    assert buffers.idle_bytes == 0

    del view

    assert buffers.idle_bytes == 2 * MIB
    assert buffers.take(2 * MIB - 5)[0] == 77
    assert buffers.idle_bytes == 2 * MIB


def test_take_never_gives_memory_to_two_of_which_a_slice_or_a_tensor_is_still_there() -> None:
    buffers = Buffers()
    view = buffers.take(2 * MIB)
    part = tensor_on(view[MIB:])[100:200]
    part.fill_(5)
    del view
    gc.collect()

    buffers.take(2 * MIB)[:] = bytes(2 * MIB)

    assert part.tolist() == [5] * 100
    assert buffers.idle_bytes == 2 * MIB
    del part
    assert buffers.idle_bytes == 4 * MIB


def test_take_does_not_give_much_more_than_is_asked_for() -> None:
    buffers = Buffers()
    del_me = buffers.take(8 * MIB)
    del del_me

    small = buffers.take(MIB)

    assert buffers.idle_bytes == 8 * MIB
    assert len(small) == MIB


def test_buffers_keep_no_more_than_they_may() -> None:
    buffers = Buffers(most_idle_bytes=4 * MIB)
    taken = [buffers.take(3 * MIB), buffers.take(MIB), buffers.take(MIB)]

    taken.clear()

    assert buffers.idle_bytes <= 4 * MIB


def test_take_by_many_threads_gives_each_its_own() -> None:
    buffers = Buffers()

    def use(number: int) -> bool:
        view = buffers.take(MIB)
        tensor = tensor_on(view).fill_(number % 251)
        del view
        return bool((tensor == number % 251).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(400)))
    assert 0 < buffers.idle_bytes <= 9 * MIB
