"""A function's limit changed and put back, at a gateway that is a fake at the wire."""

from collections.abc import Iterator
from typing import Any

import pytest
from provider import DESCRIPTION, Provider, serving

from peer import errors
from peer.config import GatewayAddress
from peer.experiments import function_limit
from peer.experiments.function_limit import ORIGINAL, FunctionLimit, limited, restored
from peer.gateway import Gateway, specification_of
from peer.store.retry import Patience

MIB = 1 << 20


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


@pytest.fixture
def limit(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> FunctionLimit:
    monkeypatch.setattr(function_limit, "_RESTORE", Patience(0.2))
    address = GatewayAddress(f"http://127.0.0.1:{provider.server_address[1]}", password="secret")
    return FunctionLimit(Gateway(address), "gradient", patience_seconds=0.3)


def resources(provider: Provider) -> tuple[Any, Any, Any]:
    description = provider.description
    return description["limits"], description["requests"], description["annotations"]


BEFORE = (DESCRIPTION["limits"], DESCRIPTION["requests"], DESCRIPTION["annotations"])


def test_limit_is_set_with_all_else_kept_and_put_back(provider: Provider, limit: FunctionLimit) -> None:
    with limit:
        assert limit.set(64 * MIB) == ""
        limits, requests, annotations = resources(provider)
        limit.check_unchanged(64 * MIB)

    assert limits == {"memory": "64Mi", "cpu": "1"}
    assert requests == {"memory": "64Mi", "cpu": "500m"}
    assert annotations.keys() == {"topic", ORIGINAL}
    assert resources(provider) == BEFORE
    assert specification_of(provider.description) == specification_of(DESCRIPTION)


def test_limit_that_was_never_set_is_left_alone(provider: Provider, limit: FunctionLimit) -> None:
    with limit:
        pass

    assert provider.num_updates == 0


@pytest.mark.parametrize("error", [errors.StopRequested("stopped", 2), KeyboardInterrupt(), ValueError()])
def test_limit_after_any_error_is_put_back(
    provider: Provider, limit: FunctionLimit, error: BaseException
) -> None:
    with pytest.raises(type(error)), limit:
        limit.set(64 * MIB)
        raise error

    assert resources(provider) == BEFORE


def test_limit_left_by_somebody_killed_is_put_back_by_the_next(
    provider: Provider, limit: FunctionLimit
) -> None:
    limit.set(32 * MIB)

    with limit:
        limit.set(16 * MIB)

    assert resources(provider) == BEFORE


def test_limit_of_a_function_without_limits_is_removed_again(
    provider: Provider, limit: FunctionLimit
) -> None:
    del provider.description["limits"], provider.description["requests"], provider.description["annotations"]

    with limit:
        limit.set(64 * MIB)
        during = resources(provider)

    assert during[:2] == ({"memory": "64Mi"}, {})
    assert resources(provider) == ({}, {}, {})


def test_limit_that_the_gateway_refuses_is_an_error_with_its_words(
    provider: Provider, limit: FunctionLimit
) -> None:
    provider.refusal = (400, "limits.memory is too small")

    with pytest.raises(errors.FunctionRefused, match="refused another deployment .*too small"):
        limit.set(MIB)


def test_limit_without_a_replica_says_why(provider: Provider, limit: FunctionLimit) -> None:
    provider.description["availableReplicas"] = 0

    assert limit.set(8 * MIB) == "no replica came up with 8Mi"
    provider.description["annotations"] = {"localfaas.last-error": "killed"}
    assert limit.set(8 * MIB) == "killed"


def test_limit_that_somebody_else_changed_is_noticed(provider: Provider, limit: FunctionLimit) -> None:
    limit.set(64 * MIB)
    provider.description["limits"]["memory"] = "1Gi"

    with pytest.raises(errors.ConfigurationError, match="its memory limit is 1Gi instead of 64Mi"):
        limit.check_unchanged(64 * MIB)


def test_limit_that_cannot_be_put_back_says_what_to_do(provider: Provider, limit: FunctionLimit) -> None:
    with pytest.raises(errors.GatewayUnreachable, match="deploy it again with `peerless up`"), limit:
        limit.set(64 * MIB)
        provider.refusal = (500, "no disk")


def test_restored_of_what_limited_gave_is_the_original() -> None:
    first = limited(DESCRIPTION, 64 * MIB)
    second = limited({"name": first.pop("service"), **first}, 32 * MIB)

    again = restored({"name": second.pop("service"), **second})

    assert again == specification_of(DESCRIPTION)
    assert restored(DESCRIPTION) is None
