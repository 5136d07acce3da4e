"""Basic authentication of `/system/*`, as OpenFaaS has it."""

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass

from localfaas.config import StatePaths, write_atomically

_USER = "admin"


@dataclass(frozen=True)
class Credentials:
    """The one user that may call `/system/*`."""

    user: str
    password: str

    def accepts(self, authorization: str | None) -> bool:
        """Tell whether an `Authorization` header carries this user's name and password.

        Both are always compared whole, in constant time. Other schemes than Basic are refused.
        """
        scheme, _, encoded = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        is_user = hmac.compare_digest(user, self.user.encode())
        is_password = hmac.compare_digest(password, self.password.encode())
        return is_user and is_password


def load_or_create_credentials(paths: StatePaths) -> Credentials:
    """Return the state directory's credentials; made, of mode 0600, if it has none yet."""
    if not paths.password.exists():
        write_atomically(paths.password, secrets.token_urlsafe(32))
    if not paths.user.exists():
        write_atomically(paths.user, _USER)
    return Credentials(paths.user.read_text().strip(), paths.password.read_text().strip())
