import base64
from pathlib import Path

import pytest

from localfaas.auth import Credentials, load_or_create_credentials
from localfaas.config import StatePaths


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        (basic("admin:secret"), True),
        (basic("admin:secret").replace("Basic", "basic"), True),
        (basic("admin:Secret"), False),
        (basic("admin:"), False),
        (basic("root:secret"), False),
        (basic("admin"), False),
        (None, False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer secret", False),
        ("Basic", False),
        ("Basic \xff", False),
        ("Basic !!!", False),
    ],
)
def test_accepts_header_only_with_the_credentials(header: str | None, is_accepted: bool) -> None:
    assert Credentials("admin", "secret").accepts(header) is is_accepted


def test_credentials_are_made_once_and_private(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "state")
    paths.create()

    first, second = load_or_create_credentials(paths), load_or_create_credentials(paths)

    assert first == second
    assert first.user == "admin"
    assert len(first.password) >= 32
    assert paths.root.stat().st_mode & 0o777 == 0o700
    assert paths.password.stat().st_mode & 0o777 == 0o600
