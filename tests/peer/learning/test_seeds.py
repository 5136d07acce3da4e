from peer.learning.seeds import derive_seed, random_stream


def test_derive_seed_never_changes() -> None:
    assert derive_seed(1, 2, 3, 4) == 5123232456584758993


def test_derive_seed_depends_on_every_part_and_their_order() -> None:
    seeds = {derive_seed(*parts) for parts in [(1, 2), (2, 1), (12,), (1, 2, 0), (1, 3), ("1", "2", "")]}

    assert len(seeds) == 6
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_random_stream_never_changes() -> None:
    assert random_stream("epoch", 1, 2, 3).permutation(8).tolist() == [2, 4, 6, 7, 5, 0, 3, 1]
