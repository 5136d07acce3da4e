from peer.learning.cache import Cache


def test_cache_keeps_what_was_used_last_within_its_capacity() -> None:
    cache: Cache[str] = Cache(10)
    made: list[str] = []

    def get(key: str, size: int) -> str:
        return cache.get(key, size, lambda: made.append(key) or key)

    for key, size in [("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4)]:
        assert get(key, size) == key

    assert made == ["a", "b", "c", "b"]


def test_cache_larger_than_capacity_is_not_kept_and_drives_nothing_out() -> None:
    cache: Cache[int] = Cache(10)
    cache.get("small", 9, lambda: 1)

    assert cache.get("large", 11, lambda: 1) == 1
    assert cache.get("large", 11, lambda: 2) == 2
    assert cache.get("small", 9, lambda: 0) == 1


def test_cache_failing_make_leaves_room_as_it_was() -> None:
    cache: Cache[int] = Cache(10)
    for _ in range(3):
        try:
            cache.get("a", 10, lambda: 1 // 0)
        except ZeroDivisionError:
            continue

    assert cache.get("a", 10, lambda: 7) == 7
    assert cache.get("a", 10, lambda: 8) == 7


def test_cache_with_less_capacity_lets_go_at_the_next_value() -> None:
    cache: Cache[int] = Cache(10)
    for key in ("a", "b"):
        cache.get(key, 4, lambda: 1)

    cache.capacity = 6
    cache.get("c", 4, lambda: 1)

    assert cache.size == 4
    assert cache.get("c", 4, lambda: 2) == 1


def test_cache_discarded_value_is_made_again_and_leaves_its_room() -> None:
    cache: Cache[int] = Cache(10)
    cache.get("a", 6, lambda: 1)
    cache.get("b", 4, lambda: 2)

    cache.discard("a")
    cache.discard("never kept")

    assert cache.entries() == [("b", 2, 4)]
    assert ("a" in cache, "b" in cache, cache.size) == (False, True, 4)
    assert cache.get("a", 6, lambda: 3) == 3
    assert cache.size == 10
