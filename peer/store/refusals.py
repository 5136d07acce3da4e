"""What an S3 server's refusal means, in the terms of `peer.errors`.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and those of MinIO and nanio
where they differ: both say in the message only that a presigned URL has expired or is from the future.
"""

import html
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

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

_DENIED_STATUSES = (401, 403)
_RANGE_STATUSES = (400, 416)
_BROKEN_UPLOADS = ("IncompleteBody", "RequestTimeout", "SlowDown", "SlowDownRead", "SlowDownWrite")
_FULL = re.compile(r"full|quota|no space left", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """An S3 server's answer of 300 or above: its status, and the code and message of its XML body if any."""

    status: int
    code: str = ""
    message: str = ""


def redacted(url: str) -> str:
    """Return `url` without its query, which holds the signature: fit for logs and errors."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def parse_refusal(status: int, body: bytes, minio_code: str = "", minio_message: str = "") -> Refusal:
    """Return what an error response says; `minio_*` are headers that MinIO sends where a body cannot be."""
    text = body.decode("utf-8", "replace")

    def element(name: str, default: str) -> str:
        match = re.search(f"<{name}>([^<]{{0,400}})", text)
        return html.unescape(match[1]) if match else default

    return Refusal(status, element("Code", minio_code), element("Message", minio_message.strip('"')))


def store_error(refusal: Refusal, what: str, *, is_range: bool = False) -> StoreError:
    """Return the error that stands for `refusal`.

    Args:
        refusal: as the server sent it.
        what: the request in words: method, where, bucket and key; never a query string.
        is_range: only a part of the object was asked for.
    """
    status, code, message = refusal.status, refusal.code, refusal.message
    said = f"{what}: the store answered {status} {code} {message}".rstrip()
    if status == 507 or (_FULL.search(f"{code} {message}") and status != 404):
        return StoreFull(f"{said}; its disk is full: free some space (`peerless runs gc`) or give it more")
    if "expired" in message:
        return UrlExpired(f"{said}; the URL must be signed again")
    if code == "RequestTimeTooSkewed" or "not valid yet" in message or "future" in message:
        return ClockSkewed(f"{said}; set this machine's clock or the store's")
    if status in _DENIED_STATUSES:
        return StoreDenied(f"{said}; check the access key and the secret key", code)
    if code == "NoSuchBucket":
        return StoreError(f"{said}; `peerless up` makes the bucket, or the store's operator does")
    if status == 404:
        return ObjectMissing(said)
    if is_range and status in _RANGE_STATUSES:
        return ObjectCorrupt(f"{said}; the object is shorter than the range that was asked for")
    if status >= 500 or code in _BROKEN_UPLOADS or status in (408, 429):
        hint = "; a full disk perhaps, its log tells" if code == "InternalError" else ""
        return StoreUnreachable(said + hint)
    if status < 400:
        return StoreError(f"{said}; redirects are not followed: name the store by its own address")
    return StoreError(said)
