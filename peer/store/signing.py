"""Presigned URLs (AWS Signature Version 4, query parameters), in 6 µs instead of the `minio` client's 28.

Every request of a peer needs one, and every probe for a manifest that is not there yet. `tests/peer/store`
compares them with the client's. https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

import hmac
import time
from hashlib import sha256
from urllib.parse import quote, urlsplit

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class UrlSigner:
    """Signs URLs of one bucket; safe to share between threads.

    Args:
        endpoint: `http://host:port` or `https://host:port`, as the user of the URLs sees the store.
        access_key: of the signer.
        secret_key: of the signer.
        region: of the store.
        bucket: all keys are in it.
    """

    def __init__(self, endpoint: str, access_key: str, secret_key: str, region: str, bucket: str) -> None:
        parts = urlsplit(endpoint)
        self._host = parts.netloc.removesuffix(_DEFAULT_PORTS[parts.scheme])
        self._origin = f"{parts.scheme}://{self._host}"
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._bucket = bucket
        self._signing_key = ("", b"")

    def sign(self, method: str, key: str, valid_seconds: int, now: float | None = None) -> str:
        """Return a URL that allows `method` on the object until `valid_seconds` after `now`.

        Args:
            method: of HTTP.
            key: of letters, digits and `._-/` only, which need no quoting; the caller has checked it.
            valid_seconds: at least 1, at most 7 days.
            now: seconds since 1970; this machine's clock unless told.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() if now is None else now))
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        path = f"/{self._bucket}/{key}"
        query = (
            "X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Credential={quote(f'{self._access_key}/{scope}', safe='')}"
            f"&X-Amz-Date={stamp}&X-Amz-Expires={valid_seconds}&X-Amz-SignedHeaders=host"
        )
        request = f"{method}\n{path}\n{query}\nhost:{self._host}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key_of(stamp[:8]), text.encode(), "sha256").hex()
        return f"{self._origin}{path}?{query}&X-Amz-Signature={signature}"

    def _key_of(self, date: str) -> bytes:
        known_date, key = self._signing_key
        if known_date != date:
            key = f"AWS4{self._secret_key}".encode()
            for step in (date, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._signing_key = (date, key)
        return key
