import pytest

from peer.errors import (
    ClockSkewed,
    ObjectCorrupt,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
    UrlExpired,
)
from peer.store.refusals import Refusal, parse_refusal, redacted, store_error


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated"), StoreDenied),
        (Refusal(403, "InvalidAccessKeyId", "does not exist in our records"), StoreDenied),
        (Refusal(403, "AccessDenied", "Access Denied."), StoreDenied),
        (Refusal(403), StoreDenied),
        (Refusal(401), StoreDenied),
        (Refusal(403, "AccessDenied", "Request has expired"), UrlExpired),
        (Refusal(403, "RequestTimeTooSkewed", "presigned URL expired"), UrlExpired),
        (Refusal(403, "AccessDenied", "Request is not valid yet"), ClockSkewed),
        (Refusal(403, "RequestTimeTooSkewed", "presigned URL is from the future"), ClockSkewed),
        (Refusal(403, "RequestTimeTooSkewed", "The difference between the request time and"), ClockSkewed),
        (Refusal(404, "NoSuchKey", "The specified key does not exist."), ObjectMissing),
        (Refusal(404), ObjectMissing),
        (Refusal(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive"), StoreFull),
        (Refusal(500, "InternalError", "[Errno 28] No space left on device"), StoreFull),
        (Refusal(500, "InternalError", "We encountered an internal error"), StoreUnreachable),
        (Refusal(503, "SlowDown", "Please reduce your request rate"), StoreUnreachable),
        (Refusal(503, "XMinioServerNotInitialized", "Server not initialized"), StoreUnreachable),
        (Refusal(400, "IncompleteBody", "You did not provide the number of bytes"), StoreUnreachable),
    ],
)
def test_store_error_of_each_refusal_has_its_class(refusal: Refusal, kind: type[StoreError]) -> None:
    error = store_error(refusal, "GET http://store/bucket/key")

    assert type(error) is kind
    assert "http://store/bucket/key" in str(error)


@pytest.mark.parametrize("status", [301, 307, 400, 409, 412])
def test_store_error_of_other_refusals_is_not_retryable(status: int) -> None:
    error = store_error(Refusal(status, "Other"), "GET x")

    assert type(error) is StoreError
    assert not error.retryable


@pytest.mark.parametrize("status", [400, 416])
def test_store_error_of_range_outside_the_object_is_corruption(status: int) -> None:
    assert type(store_error(Refusal(status, "InvalidRange"), "GET x", is_range=True)) is ObjectCorrupt


def test_parse_refusal_reads_code_and_message() -> None:
    body = b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>gone &amp; lost</Message></Error>'

    assert parse_refusal(404, body) == Refusal(404, "NoSuchKey", "gone & lost")


def test_parse_refusal_without_body_uses_the_headers_of_minio() -> None:
    refusal = parse_refusal(403, b"", "AccessDenied", '"Access Denied."')

    assert refusal == Refusal(403, "AccessDenied", "Access Denied.")


def test_redacted_url_has_no_signature_and_no_password() -> None:
    url = "https://user:password@store:9000/bucket/a/key?X-Amz-Signature=secret&X-Amz-Credential=me"

    assert redacted(url) == "https://store:9000/bucket/a/key"
