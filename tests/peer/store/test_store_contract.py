"""What peerless needs of a store, shown on each of the servers that it can start.

Where the two differ is in `test_store_differences.py` and docs/decisions/store-servers.md.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import minio.time
import pytest
import torch

from peer.errors import (
    ClockSkewed,
    ConfigurationError,
    InvalidName,
    ObjectCorrupt,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreUnreachable,
    UrlExpired,
)
from peer.messages import ModelSpec, Refusal
from peer.store.retry import Patience, poll
from peer.store.s3 import Store, StoreAddress, verify
from peer.store.servers import free_port
from peer.store.tensors import decode, encode
from peer.store.transfer import HttpTransfer

MIB = 1 << 20

OPERATIONS: list[Callable[[Store], object]] = [
    lambda store: store.put_bytes("a/key", b"data"),
    lambda store: store.get("a/key"),
    lambda store: store.get_if_exists("a/key"),
    lambda store: store.get_range("a/key", 0, 1),
    lambda store: store.head("a/key"),
    lambda store: store.delete(["a/key"]),
    lambda store: list(store.list("a/")),
]


class TestObjects:
    @pytest.mark.parametrize("length", [0, 1, 63, 64, 1000, MIB - 1, MIB, MIB + 1, 8 * MIB, 64 * MIB])
    def test_get_after_put_returns_the_bytes(self, store: Store, length: int) -> None:
        data = os.urandom(length)

        store.put_bytes("a/key", data)

        assert store.get("a/key") == data
        assert store.get("a/key", length) == data
        assert store.get_if_exists("a/key") == data
        assert store.head("a/key") == length

    def test_put_of_tensors_gives_them_back(self, store: Store) -> None:
        encoded = encode({"weight": torch.randn(100, 100), "steps": torch.tensor(3)}, {"round": 7})

        store.put("a/key", encoded.chunks, encoded.length)
        received = store.get("a/key", encoded.length, encoded.sha256())

        assert store.get("a/key", checksum=encoded.xxh3()) == received
        verify(received, encoded.sha256(), "a/key")
        verify(received, encoded.xxh3(), "a/key")
        assert decode(received).metadata == {"round": 7}

    def test_put_over_an_object_replaces_it(self, store: Store) -> None:
        store.put_bytes("a/key", b"first")
        store.put_bytes("a/key", b"the second, longer")
        assert store.get("a/key") == b"the second, longer"

        store.put_bytes("a/key", b"3rd")
        assert store.get("a/key") == b"3rd"
        assert store.head("a/key") == 3

    def test_put_of_same_bytes_by_many_at_once_succeeds(self, store: Store) -> None:
        data = os.urandom(MIB)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: store.put_bytes("a/key", data), range(16)))

        assert store.get("a/key") == data

    def test_get_range_returns_exactly_these_bytes(self, store: Store) -> None:
        data = os.urandom(3 * MIB)
        store.put_bytes("a/key", data)

        for start, stop in [(0, 1), (0, 3 * MIB), (100, 100), (MIB - 1, 2 * MIB + 1), (3 * MIB - 1, 3 * MIB)]:
            assert store.get_range("a/key", start, stop) == data[start:stop]

    def test_get_range_outside_the_object_is_corrupt(self, store: Store) -> None:
        store.put_bytes("a/key", b"0123456789")

        for start, stop in [(5, 11), (10, 11), (100, 200)]:
            with pytest.raises(ObjectCorrupt, match="a/key"):
                store.get_range("a/key", start, stop)

    def test_get_of_missing_key_names_it(self, store: Store) -> None:
        with pytest.raises(ObjectMissing, match="a/missing"):
            store.get("a/missing")

        assert store.get_if_exists("a/missing") is None
        assert store.head("a/missing") is None

    def test_get_of_truncated_object_is_corrupt(self, store: Store) -> None:
        data = os.urandom(1000)
        store.put_bytes("a/key", data[:-1])

        with pytest.raises(ObjectCorrupt, match="a/key has 999 bytes, 1000 were expected"):
            store.get("a/key", 1000)

    def test_get_of_damaged_object_is_found_by_its_checksum(self, store: Store) -> None:
        encoded = encode({"weight": torch.zeros(1000)})
        damaged = bytearray(b"".join(encoded.chunks))
        damaged[-1] ^= 1
        store.put_bytes("a/key", damaged)

        received = store.get("a/key", encoded.length)

        for expected in (encoded.sha256(), encoded.xxh3()):
            with pytest.raises(ObjectCorrupt, match="a/key"):
                verify(received, expected, "a/key")
            with pytest.raises(ObjectCorrupt, match="a/key"):
                store.get("a/key", encoded.length, expected)

    def test_delete_removes_and_forgives_what_is_missing(self, store: Store) -> None:
        for number in range(5):
            store.put_bytes(f"a/{number}", b"data")

        store.delete([f"a/{number}" for number in range(1, 9)])
        store.delete([])

        assert [key for key, _ in store.list("")] == ["a/0"]

    def test_list_yields_keys_and_lengths_in_order(self, store: Store) -> None:
        for key, length in {"b/1": 1, "a/2": 2, "a/1/x": 3, "a/10": 4, "ab": 5}.items():
            store.put_bytes(key, bytes(length))

        assert list(store.list("a/")) == [("a/1/x", 3), ("a/10", 4), ("a/2", 2)]
        assert list(store.list("a")) == [("a/1/x", 3), ("a/10", 4), ("a/2", 2), ("ab", 5)]
        assert len(list(store.list(""))) == 5
        assert list(store.list("c/")) == []

    @pytest.mark.slow
    def test_list_of_more_than_a_page_is_complete(self, store: Store) -> None:
        # nanio continues after `a/…`, and would leave out `a-b/…`, if it were asked for all of them at once
        keys = [f"a/{number:04}" for number in range(1_010)] + ["a-b/1", "a.b", "a0/1"]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: store.put_bytes(key, b""), keys))

        assert [key for key, _ in store.list("")] == sorted(keys)

    def test_names_lists_one_level(self, store: Store) -> None:
        for key in ["runs/a/1", "runs/a/2/3", "runs/a-b/1", "runs/c"]:
            store.put_bytes(key, b"")

        assert store.names("runs/") == ["a-b/", "a/", "c"]
        assert store.names("nothing/") == []

    def test_bytes_moved_counts_both_ways(self, store: Store) -> None:
        store.put_bytes("a/key", bytes(1000))
        store.get("a/key")
        store.get_range("a/key", 0, 10)
        store.head("a/key")

        assert store.bytes_moved() == {"put": 1000, "get": 1010}

    def test_store_after_fork_works_in_parent_and_child(self, store: Store) -> None:
        store.put_bytes("a/key", b"parent's")
        list(store.list(""))

        child = os.fork()
        if child == 0:
            # takes no part in the parent's test run: no fixture may be torn down here
            is_fine = store.get("a/key") == b"parent's" and len(list(store.list(""))) == 1
            store.put_bytes("a/child", b"child's")
            os._exit(0 if is_fine else 1)

        assert os.waitpid(child, 0)[1] == 0
        assert store.get("a/child") == b"child's"
        assert len(list(store.list(""))) == 2

    @pytest.mark.slow
    def test_put_beside_the_removal_of_the_last_object_of_a_folder_is_stored(self, store: Store) -> None:
        def come_and_go(peer: int) -> None:
            for number in range(300):
                key = f"runs/x/g0/rounds/{number % 3}/gradients/{peer}/0-0"
                store.put_bytes(key, b"gradient")
                assert store.get(key) == b"gradient"
                store.delete([key])

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(come_and_go, range(3)))

        assert list(store.list("runs/")) == []


class TestMessages:
    def test_get_message_after_put_message_is_equal(self, store: Store) -> None:
        message = ModelSpec(name="cnn", arguments={"width": 3})

        store.put_message("a/key", message)

        assert store.get_message("a/key", ModelSpec) == message
        assert store.get_message_if_exists("a/key", ModelSpec) == message

    def test_get_message_of_missing_key_names_it(self, store: Store) -> None:
        assert store.get_message_if_exists("a/key", ModelSpec) is None
        with pytest.raises(ObjectMissing, match="a/key"):
            store.get_message("a/key", ModelSpec)

    @pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"name": 3}'])
    def test_get_message_of_something_else_is_corrupt(self, store: Store, data: bytes) -> None:
        store.put_bytes("a/key", data)

        with pytest.raises(ObjectCorrupt, match="a/key"):
            store.get_message("a/key", Refusal)


class TestRefusals:
    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", "a?b", "a/" + "b" * 65])
    def test_hostile_key_is_refused_before_anything_is_sent(self, key: str) -> None:
        nowhere = Store(StoreAddress(f"http://127.0.0.1:{free_port()}", "me", "secret"))

        for operation in (
            lambda: nowhere.put_bytes(key, b""),
            lambda: nowhere.get(key),
            lambda: nowhere.head(key),
            lambda: nowhere.delete([key]),
            lambda: nowhere.sign_get(key, 60),
            lambda: nowhere.sign_put(key, 60),
        ):
            with pytest.raises(InvalidName):
                operation()

    @pytest.mark.parametrize(
        "endpoint", ["127.0.0.1:9000", "ftp://store", "http://", "http://a/path", "http://a:x", "http://me@a"]
    )
    def test_endpoint_of_wrong_form_is_refused(self, endpoint: str) -> None:
        with pytest.raises(ConfigurationError, match="http://host:port"):
            Store(StoreAddress(endpoint, "me", "secret"))

    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("changes", [{"secret_key": "wrong-secret"}, {"access_key": "nobody"}])
    def test_wrong_credentials_are_denied_at_once(
        self, store: Store, changes: dict[str, str], operation: Callable[[Store], object]
    ) -> None:
        intruder = Store(replace(store.address, **changes))

        with pytest.raises(StoreDenied):
            operation(intruder)

        with pytest.raises(StoreDenied, match="access key"):
            intruder.check()
        intruder.close()

    def test_wrong_credentials_for_a_large_upload_are_denied(self, store: Store) -> None:
        intruder = Store(replace(store.address, secret_key="wrong-secret"), patience=Patience(0.0))

        with pytest.raises(StoreDenied):
            intruder.put_bytes("a/key", bytes(64 * MIB))

        assert store.head("a/key") is None
        intruder.close()

    def test_missing_bucket_is_named(self, store: Store) -> None:
        elsewhere = Store(replace(store.address, bucket="no-such-bucket"))

        elsewhere.check()
        with pytest.raises(StoreError, match="no-such-bucket"):
            elsewhere.get("a/key")
        with pytest.raises(StoreError, match="no-such-bucket"):
            elsewhere.put_bytes("a/key", b"")
        elsewhere.close()

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_store_that_is_not_there_is_unreachable(self, operation: Callable[[Store], object]) -> None:
        endpoint = f"http://127.0.0.1:{free_port()}"
        nowhere = Store(StoreAddress(endpoint, "me", "secret"), patience=Patience(0.05))

        with pytest.raises(StoreUnreachable, match=r"gave up after \d+ tries"):
            operation(nowhere)
        with pytest.raises(StoreUnreachable, match=f"no store answers at {endpoint}.*peerless up"):
            nowhere.check()


class TestSignedUrls:
    def test_signed_urls_let_a_function_read_and_write(self, store: Store) -> None:
        function = HttpTransfer()
        store.put_bytes("a/input", b"input")

        assert function.get(store.sign_get("a/input", 60)) == b"input"
        function.put(store.sign_put("a/output", 60), [b"output"], 6)
        function.close()

        assert store.get("a/output") == b"output"

    def test_signed_url_allows_nothing_else(self, store: Store) -> None:
        function = HttpTransfer()
        store.put_bytes("a/input", b"input")
        url = store.sign_get("a/input", 60)

        for attempt in (
            lambda: function.put(url, [b"forged"], 6),
            lambda: function.delete(url),
            lambda: function.get(url.replace("a/input", "a/other")),
        ):
            with pytest.raises(StoreDenied):
                attempt()
        function.close()

        assert store.get("a/input") == b"input"

    def test_signed_url_past_its_time_is_expired(self, store: Store) -> None:
        function = HttpTransfer()
        store.put_bytes("a/key", b"data")
        url = store.sign_get("a/key", 1)
        signature = url.rpartition("=")[2]

        def expired() -> UrlExpired | None:
            try:
                function.get(url)
            except UrlExpired as error:
                return error
            return None

        error = poll(expired, Patience(10.0))
        function.close()

        assert error is not None
        assert error.retryable
        assert signature not in str(error)

    def test_signed_url_names_the_functions_endpoint_without_contacting_it(self, store: Store) -> None:
        address = replace(store.address, function_endpoint="https://store.example:9443")
        signer = Store(address)

        start = time.perf_counter()
        url = signer.sign_get("a/key", 60)

        assert url.startswith(f"https://store.example:9443/{address.bucket}/a/key?")
        assert time.perf_counter() - start < 1.0

    @pytest.mark.parametrize("minutes", [20, -20])
    def test_clock_that_is_wrong_is_told_from_wrong_credentials(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, minutes: int
    ) -> None:
        right_clock, right_time = time.time, minio.time.utcnow
        monkeypatch.setattr(time, "time", lambda: right_clock() + 60 * minutes)
        monkeypatch.setattr(minio.time, "utcnow", lambda: right_time() + timedelta(minutes=minutes))

        for operation in OPERATIONS[:4]:
            with pytest.raises(ClockSkewed, match="clock"):
                operation(store)
        with pytest.raises(ClockSkewed, match="clock"):
            store.check()


class TestClock:
    def test_clock_skew_of_right_clocks_is_small(self, store: Store) -> None:
        assert abs(store.clock_skew_seconds()) < 2.0

    @pytest.mark.parametrize(("minutes", "words"), [(10, "ahead of"), (-10, "behind")])
    def test_check_with_clock_ten_minutes_off_says_by_how_much(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, minutes: int, words: str
    ) -> None:
        right_time = time.time
        monkeypatch.setattr(time, "time", lambda: right_time() + 60 * minutes)

        with pytest.raises(ClockSkewed, match=f"(599|600|601) s {words}"):
            store.check()
