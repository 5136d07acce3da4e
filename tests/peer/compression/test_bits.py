import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peer.compression.bits import pack, unpack


@pytest.mark.parametrize("num_bits", range(1, 9))
@given(st.integers(0, 4), st.integers(1, 20), st.integers(0, 1000))
def test_unpack_after_pack_gives_the_codes(num_bits: int, rows: int, groups: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << num_bits, (rows, 8 * groups), generator=generator).to(torch.uint8)

    packed = pack(codes, num_bits)

    assert packed.dtype == torch.uint8 and packed.shape == (rows, groups * num_bits)
    assert torch.equal(unpack(packed, num_bits), codes)


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_each_bit_of_the_packed_bytes_is_one_bit_of_one_code(num_bits: int) -> None:
    single = []
    for element in range(8):
        for bit in range(num_bits):
            codes = torch.zeros(1, 8, dtype=torch.uint8)
            codes[0, element] = 1 << bit
            single.append(int.from_bytes(pack(codes, num_bits).numpy().tobytes(), "little"))

    assert sorted(single) == [1 << position for position in range(8 * num_bits)]


def test_layout_of_three_bits_is_as_the_protocol_says() -> None:
    codes = torch.tensor([[0b101, 0b001, 0b010, 0b011, 0b100, 0b110, 0b111, 0b000]], dtype=torch.uint8)

    packed = pack(codes, 3)

    # two low bits in four runs of two elements, then the highest bit in eight runs of one
    low = [0b01 | 0b10 << 2 | 0b00 << 4 | 0b11 << 6, 0b01 | 0b11 << 2 | 0b10 << 4 | 0b00 << 6]
    assert packed.tolist() == [[*low, 0b01110001]]
