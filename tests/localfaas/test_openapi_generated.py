"""Every documented operation under generated requests, well formed and not: schemathesis' checks hold."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from requests.auth import HTTPBasicAuth
from schemathesis.checks import positive_data_acceptance, unsupported_method

api = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.yml")

pytestmark = pytest.mark.slow


class _Password(HTTPBasicAuth):
    """That of the module's gateway, which schemathesis leaves out where it tries to do without."""

    def __init__(self) -> None:
        super().__init__("admin", "")


PASSWORD = _Password()
api.auth.set_from_requests(PASSWORD)


@pytest.fixture(scope="module", autouse=True)
def password(gateway: Any) -> None:
    PASSWORD.username, PASSWORD.password = gateway.auth


@api.hook
def map_body(context: Any, body: Any) -> Any:
    """Name an image that there is, so that more than the name is looked at."""
    if isinstance(body, dict) and isinstance(body.get("image"), str) and body["image"]:
        body["image"] = "test/probe:latest"
    return body


@api.hook
def map_query(context: Any, query: Any) -> Any:
    """Follow no log: nobody would end it."""
    return query and {name: value for name, value in query.items() if name != "follow"}


@api.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_generated_requests_are_answered_as_documented(case: Any, gateway: Any) -> None:
    # What a well-formed request is answered depends on the images, namespaces and secrets that there are;
    # and a function is called by any verb.
    excluded = [positive_data_acceptance]
    if "function/{name}" in case.path:
        excluded.append(unsupported_method)
    case.call_and_validate(base_url=gateway.url, timeout=30, excluded_checks=excluded)
