"""A message and tensors in one object, against real stores."""

import pytest
import torch

from peer import messages
from peer.errors import ObjectCorrupt
from peer.messages import PeerManifest, StoredObject
from peer.store import letters, tensors
from peer.store.s3 import Store

KEY = "runs/run/g0/rounds/0/1.json"


def manifest(cpu: str = "cpu") -> PeerManifest:
    return PeerManifest("run", 0, 0, 1, "an-incarnation", "a" * 64, cpu, [StoredObject(KEY, 3, "xxh3:00")])


def allocate(num_bytes: int) -> memoryview:
    return memoryview(bytearray(num_bytes))


@pytest.mark.parametrize("num_elements", [0, 1, 3, 100_000])
@pytest.mark.parametrize("cpu", ["", "two\nlines", "x" * 57, "x" * 5_000])
def test_letter_comes_back_as_it_was(store: Store, num_elements: int, cpu: str) -> None:
    values = torch.arange(num_elements, dtype=torch.float32)
    enclosed = tensors.encode({"gradient": values})

    letters.put(store, KEY, manifest(cpu), enclosed)
    letter = letters.get_if_exists(store, KEY, PeerManifest, allocate)

    assert letter is not None and letter.message == manifest(cpu)
    assert bytes(letter.enclosed) == b"".join(enclosed.chunks)
    assert torch.equal(tensors.decode(letter.enclosed).tensors["gradient"], values)


def test_what_is_enclosed_begins_where_tensors_are_aligned(store: Store) -> None:
    enclosed = tensors.encode({"gradient": torch.ones(5)})

    letters.put(store, KEY, manifest(), enclosed)

    assert (len(store.get(KEY)) - enclosed.length) % tensors.ALIGNMENT_BYTES == 0


def test_plain_message_is_a_letter_that_encloses_nothing(store: Store) -> None:
    store.put_message(KEY, manifest())

    letter = letters.get_if_exists(store, KEY, PeerManifest, allocate)

    assert letter is not None and letter.message == manifest() and not letter.enclosed


def test_letter_that_is_not_there_is_none(store: Store) -> None:
    assert letters.get_if_exists(store, KEY, PeerManifest, allocate) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"peerless" + bytes(5_000),
        b"{}\n" + bytes(61),
        messages.encode(manifest())[:-1],
        messages.encode(manifest()) + b"\0\n",
        b" " * 10_000,
    ],
)
def test_what_is_no_letter_is_refused_with_its_key(store: Store, body: bytes) -> None:
    store.put_bytes(KEY, body)

    with pytest.raises(ObjectCorrupt, match=f"{KEY} is no PeerManifest"):
        letters.get_if_exists(store, KEY, PeerManifest, allocate)
