import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import InvalidName
from peer.store import keys

HOSTILE = ["", ".", "..", "...", "a/b", "../a", "a\n", "a\x00", "a b", "ä", "%2e", "a" * 65, "a\\b", "a?b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_keys_of_hostile_names_are_refused(name: str) -> None:
    for build in (
        keys.dataset,
        keys.run,
        lambda name: keys.weights("run", name),
        lambda name: keys.gradient("run", 0, 0, 0, 0, name),
        lambda name: keys.dataset_part("data", name, "shuffled", 0),
        lambda name: keys.dataset_part("data", "train", name, 0),
        lambda name: keys.checkpoint("run", 0, name),
    ):
        with pytest.raises(InvalidName):
            build(name)


@given(st.text(max_size=70))
def test_checked_returns_only_names_of_safe_characters(name: str) -> None:
    try:
        checked = keys.checked(name, "name")
    except InvalidName:
        return

    assert checked == name
    assert name.isascii()
    assert 1 <= len(name) <= 64
    assert not set(name) & set("/\\?#% \n\r\t\0")


def test_keys_of_one_run_lie_under_its_prefix() -> None:
    prefix = keys.run("a-run")

    for key in (
        keys.run_config("a-run"),
        keys.run_summary("a-run"),
        keys.weights("a-run", "0" * 64),
        keys.gradient("a-run", 1, 2, 3, 4, "a"),
        keys.exchange("a-run", 1, 2, 3, 0),
        keys.peer_manifest("a-run", 1, 2, 3),
        keys.checkpoint("a-run", 2, "shared"),
        keys.member("a-run", 3),
    ):
        assert key.startswith(prefix)


def test_round_of_checkpoint_knows_only_manifests() -> None:
    assert keys.round_of_checkpoint(keys.checkpoint("run", 17, "manifest.json")) == 17
    assert keys.round_of_checkpoint(keys.checkpoint("run", 17, "shared")) is None
    assert keys.round_of_checkpoint(keys.run_config("run")) is None


def test_keys_of_different_objects_differ() -> None:
    numbers = list(itertools.product(range(12), repeat=4))

    built = {keys.gradient("run", *four, "a") for four in numbers} | {
        keys.exchange("run", *four) for four in numbers
    }

    assert len(built) == 2 * len(numbers)
