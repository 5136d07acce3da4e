from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minio import Minio

from peer.store.signing import UrlSigner

segments = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,8}", fullmatch=True)


@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]),
    key=st.lists(segments, min_size=1, max_size=4).map("/".join),
    access_key=st.text("abcXYZ019+/=", min_size=3, max_size=20),
    valid_seconds=st.integers(1, 604_800),
    now=st.integers(0, 4_000_000_000),
)
def test_sign_gives_the_url_of_the_minio_client(
    method: str, key: str, access_key: str, valid_seconds: int, now: int
) -> None:
    client = Minio("store:9000", access_key, "a-secret", secure=False, region="eu-west-3")
    expected = client.get_presigned_url(
        method,
        "bucket",
        key,
        expires=timedelta(seconds=valid_seconds),
        request_date=datetime.fromtimestamp(now, UTC),
    )

    signer = UrlSigner("http://store:9000", access_key, "a-secret", "eu-west-3", "bucket")

    assert signer.sign(method, key, valid_seconds, now) == expected


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("http://store", "store"),
        ("http://store:80/", "store"),
        ("https://store:443", "store"),
        ("https://store:80", "store:80"),
        ("http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_sign_leaves_out_the_default_port(endpoint: str, host: str) -> None:
    signer = UrlSigner(endpoint, "me", "a-secret", "us-east-1", "bucket")

    assert signer.sign("GET", "a/key", 60).split("?")[0] == f"{endpoint.split(':')[0]}://{host}/bucket/a/key"


def test_sign_on_another_day_uses_another_key() -> None:
    signer = UrlSigner("http://store:9000", "me", "a-secret", "us-east-1", "bucket")
    fresh = UrlSigner("http://store:9000", "me", "a-secret", "us-east-1", "bucket")

    signer.sign("GET", "a/key", 60, now=0)

    assert signer.sign("GET", "a/key", 60, now=86_400) == fresh.sign("GET", "a/key", 60, now=86_400)
