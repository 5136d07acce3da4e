import pytest

from peer.compression.names import parse, parse_stateless
from peer.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        ("fp16", "fp16"),
        ("bf16", "bf16"),
        ("int8", "int8"),
        ("qsgd:2", "qsgd:2"),
        ("qsgd:8", "qsgd:8"),
        ("topk:0.01", "topk:0.01"),
        ("topk:1e-2", "topk:0.01"),
        ("topk:1", "topk:1.0"),
        ("sparseloco", "sparseloco"),
    ],
)
def test_name_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "gzip", "FP16", "fp16:2", "none:", "int8:8", "qsgd", "qsgd:", "qsgd:1", "qsgd:9", "qsgd:4.0"),
        *("qsgd:4:4", "topk", "topk:", "topk:0", "topk:-0.1", "topk:1.1", "topk:nan", "topk:inf", "x" * 999),
        "sparseloco:2",
    ],
)
def test_unknown_name_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not known: it is none, fp16, .* topk:RATIO"):
        parse(text)


def test_codec_with_memory_is_refused_for_functions_with_the_reason() -> None:
    assert str(parse_stateless("qsgd:4")) == "qsgd:4"
    with pytest.raises(ConfigurationError, match="functions keep nothing: take fp16"):
        parse_stateless("topk:0.01")
