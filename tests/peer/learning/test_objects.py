"""What a replica keeps of the store: objects that are missing, under way, prefetched or lost."""

import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import pytest
import yaml
from harness import CHECKOUT

from peer.errors import ObjectCorrupt, StoreUnreachable
from peer.learning.objects import Objects
from peer.messages import RemoteObject
from peer.store.ahead import AT_ONCE
from peer.store.checksums import checksum
from peer.store.retry import Patience, poll

PATIENCE_SECONDS = 30.0


@dataclass
class Shelf:
    """Objects of ten bytes, which are given out only while `is_open`."""

    fetched: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    is_open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.is_open.set()

    def fetch(self, remote: RemoteObject) -> bytearray:
        name = remote.url.partition("?")[0]
        self.fetched.append(name)
        self.threads.add(threading.get_ident())
        assert self.is_open.wait(PATIENCE_SECONDS)
        if name in self.missing:
            raise StoreUnreachable(f"GET {name}: refused")
        return bytearray(content(name))

    def wait_for(self, *names: str) -> None:
        """Return once all of these have been asked for."""
        poll(lambda: set(names) <= set(self.fetched) or None, Patience(total_seconds=PATIENCE_SECONDS))


def content(name: str) -> bytes:
    return name.encode().ljust(10)


def remote(name: str) -> RemoteObject:
    body = content(name)
    return RemoteObject(f"{name}?X-Amz-Signature=secret", len(body), checksum("sha256", [body]))


def remotes(names: str) -> list[RemoteObject]:
    return [remote(name) for name in names]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def come(objects: Objects) -> None:
    """Return once nothing is under way."""
    poll(lambda: objects.bytes_under_way == 0 or None, Patience(total_seconds=PATIENCE_SECONDS))


def test_objects_that_are_missing_are_asked_for_at_once_and_returned_in_order() -> None:
    together = threading.Barrier(AT_ONCE + 1)

    def fetch(remote: RemoteObject) -> bytearray:
        together.wait(PATIENCE_SECONDS)
        return bytearray(content(remote.url[0]))

    found = Objects(fetch, 1000).get(remotes("abcde"))

    assert [bytes(each) for each in found] == [content(name) for name in "abcde"]


def test_objects_of_which_one_is_missing_need_no_other_thread(shelf: Shelf) -> None:
    objects = Objects(shelf.fetch, 1000)
    before = threading.active_count()

    for names in ("a", "ab", "bac"):
        objects.get(remotes(names))

    assert shelf.fetched == ["a", "b", "c"]
    assert shelf.threads == {threading.get_ident()}
    assert threading.active_count() == before


@pytest.mark.parametrize("capacity", [0, 10, 1000])
def test_objects_named_twice_are_fetched_once(shelf: Shelf, capacity: int) -> None:
    first, _, again = Objects(shelf.fetch, capacity).get(remotes("aba"))

    assert first is again
    assert sorted(shelf.fetched) == ["a", "b"]


def test_objects_that_are_there_are_not_driven_out_by_those_that_are_missing(shelf: Shelf) -> None:
    objects = Objects(shelf.fetch, 40)
    objects.get(remotes("abcd"))
    shelf.fetched.clear()

    objects.get(remotes("eab"))
    objects.get(remotes("abde"))

    assert shelf.fetched == ["e"]


def test_objects_of_which_one_fails_raise_and_are_asked_for_again(shelf: Shelf) -> None:
    objects = Objects(shelf.fetch, 1000)
    shelf.missing = {"b"}

    with pytest.raises(StoreUnreachable, match="GET b"):
        objects.get(remotes("abc"))
    shelf.missing.clear()
    come(objects)
    found = objects.get(remotes("abc"))

    assert [bytes(each) for each in found] == [content(name) for name in "abc"]
    assert sorted(shelf.fetched) == ["a", "b", "b", "c"]


def test_objects_are_verified_in_every_thread(shelf: Shelf) -> None:
    def torn(remote: RemoteObject) -> bytearray:
        return shelf.fetch(remote)[:9] + b"?"

    for names in ("a", "ab"):
        with pytest.raises(ObjectCorrupt) as refusal:
            Objects(torn, 1000).get(remotes(names))
        assert "secret" not in str(refusal.value)


def test_prefetched_objects_under_way_are_waited_for_and_asked_for_once(shelf: Shelf) -> None:
    objects = Objects(shelf.fetch, 1000)
    shelf.is_open.clear()
    objects.prefetch(remotes("ab"))
    shelf.wait_for("a", "b")
    under_way = objects.bytes_under_way
    threading.Timer(0.05, shelf.is_open.set).start()

    found = objects.get(remotes("ba"))

    assert under_way == 20
    assert objects.bytes_under_way == 0
    assert [bytes(each) for each in found] == [content("b"), content("a")]
    assert sorted(shelf.fetched) == ["a", "b"]


@pytest.mark.parametrize("fails_before", [True, False])
def test_prefetched_object_that_fails_is_logged_and_asked_for_again(
    shelf: Shelf, caplog: pytest.LogCaptureFixture, fails_before: bool
) -> None:
    objects = Objects(shelf.fetch, 1000)
    shelf.missing = {"a"}
    shelf.is_open.clear()
    objects.prefetch(remotes("a"))
    shelf.wait_for("a")
    if fails_before:
        shelf.is_open.set()
        come(objects)
    else:
        threading.Timer(0.05, shelf.is_open.set).start()

    with pytest.raises(StoreUnreachable):
        objects.get(remotes("a"))
    shelf.missing.clear()
    (found,) = objects.get(remotes("a"))

    assert bytes(found) == content("a")
    assert shelf.fetched == ["a", "a", "a"]
    assert "not fetched ahead of its need: GET a: refused" in caplog.text
    assert "secret" not in caplog.text


def test_prefetch_fills_the_room_and_drives_nothing_out(shelf: Shelf) -> None:
    objects = Objects(shelf.fetch, 45)
    objects.get(remotes("abc"))

    objects.prefetch(remotes("adef"))
    come(objects)
    objects.get(remotes("abcd"))

    assert sorted(shelf.fetched) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("more_bytes", [0, 9, 10])
def test_prefetch_keeps_to_what_the_memory_limit_leaves(shelf: Shelf, more_bytes: int) -> None:
    objects = Objects(shelf.fetch, 1000)
    objects.get(remotes("a"))

    objects.fit(more_bytes)
    objects.prefetch(remotes("bc"))
    come(objects)

    assert sorted(shelf.fetched) == (["a", "b"] if more_bytes == 10 else ["a"])


def test_prefetch_without_a_cache_fetches_nothing(shelf: Shelf) -> None:
    objects = Objects(shelf.fetch, 0)

    objects.prefetch(remotes("ab"))

    assert shelf.fetched == []
    assert [bytes(each) for each in objects.get(remotes("ab"))] == [content("a"), content("b")]


def test_prefetch_that_has_not_begun_is_given_up_for_what_is_needed(shelf: Shelf) -> None:
    objects = Objects(shelf.fetch, 1000)
    shelf.is_open.clear()
    objects.prefetch(remotes("abcdefgh"))
    shelf.wait_for(*"abcd")
    threading.Timer(0.05, shelf.is_open.set).start()

    objects.get(remotes("hx"))
    come(objects)

    assert AT_ONCE == 4
    assert sorted(shelf.fetched) == sorted("abcdhx")


def test_objects_without_room_for_a_thread_are_fetched_one_after_the_other(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    objects = Objects(shelf.fetch, 1000)

    objects.prefetch(remotes("z"))
    found = objects.get(remotes("abc"))

    assert [bytes(each) for each in found] == [content(name) for name in "abc"]
    assert shelf.threads == {threading.get_ident()}
    assert sorted(shelf.fetched) == ["a", "b", "c"]
    assert [record.levelno for record in caplog.records] == 3 * [logging.WARNING]


_FREED_BY_OTHERS = """
import pathlib, re, sys
from peer.learning.objects import Objects
from peer.messages import RemoteObject
from peer.store.checksums import checksum

MIB = 1 << 20

def data_mib():
    return int(re.search(r"VmData:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) >> 10

bodies = {str(number): bytes([number]) * (4 * MIB) for number in range(9)}
remotes = [RemoteObject(name, 4 * MIB, checksum("sha256", [body])) for name, body in bodies.items()]
objects = Objects(lambda remote: bytearray(bodies[remote.url]), 0)
objects.get(remotes)
before = data_mib()
of_this_thread = [bytearray(MIB) for _ in range(30)]
print(data_mib() - before)
"""


def test_memory_that_other_threads_have_freed_is_used_again() -> None:
    stack = yaml.safe_load((CHECKOUT / "stack.yml").read_text())
    tunables = stack["functions"]["gradient"]["environment"]["GLIBC_TUNABLES"]
    dockerfile = (CHECKOUT / "template/peerless/Dockerfile").read_text()

    def grown_mib(tunables: str) -> int:
        environment = os.environ | {"GLIBC_TUNABLES": tunables, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, "-c", _FREED_BY_OTHERS]
        return int(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)

    assert grown_mib(tunables) < 5
    assert grown_mib(tunables.replace("arena_max=1", "arena_max=8")) > 20
    assert f"GLIBC_TUNABLES={tunables} " in dockerfile
