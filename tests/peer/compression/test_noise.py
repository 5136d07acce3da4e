import torch
from hypothesis import given
from hypothesis import strategies as st

from peer.compression.noise import Noise


@given(st.integers(0, (1 << 63) - 1), st.integers(0, 50), st.integers(0, 500))
def test_noise_of_an_element_does_not_depend_on_where_one_begins(
    seed: int, skipped: int, length: int
) -> None:
    whole = Noise(seed).take(16 * skipped + length)

    assert torch.equal(Noise(seed, 16 * skipped).take(length), whole[16 * skipped :])


def test_noise_taken_in_pieces_is_the_noise_taken_at_once() -> None:
    noise = Noise(3)

    pieces = [noise.take(4096), noise.take(16), noise.take(4096)]

    assert torch.equal(torch.cat(pieces), Noise(3).take(2 * 4096 + 16))


def test_noise_has_every_value_about_as_often() -> None:
    counts = torch.bincount(Noise(1).take(1 << 22).to(torch.int64) + (1 << 15), minlength=1 << 16)

    # 64 each; the chi-squared of 65,535 degrees of freedom has a standard deviation of 362
    assert abs(((counts - 64).double() ** 2 / 64).sum().item() - 65_535) < 5 * 362


def test_noise_of_neighbouring_elements_is_not_correlated() -> None:
    noise = Noise(2).take(1 << 20).double() / (1 << 15)

    for distance in (1, 2, 3, 4, 16, 512, 4096):
        correlation = (noise[:-distance] * noise[distance:]).mean().item() * 3
        assert abs(correlation) < 5 / 1024
