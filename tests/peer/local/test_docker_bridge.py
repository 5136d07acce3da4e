from typing import Any

import pytest

from peer.errors import ConfigurationError
from peer.local.docker_bridge import address_on


def bridge(*configured: dict[str, str], interface: str = "lo") -> dict[str, Any]:
    """Return what the daemon says of a bridge, as far as it matters."""
    options = {"com.docker.network.bridge.name": interface} if interface else {}
    return {"IPAM": {"Driver": "default", "Config": list(configured)}, "Options": options}


def test_gateway_of_ipv4_is_the_address() -> None:
    six = {"Subnet": "fd00::/64", "Gateway": "fd00::1"}

    assert address_on(bridge(six, {"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"})) == "172.17.0.1"


def test_bridge_without_a_gateway_has_the_address_of_its_interface() -> None:
    assert address_on(bridge({"Subnet": "127.0.0.0/8"})) == "127.0.0.1"
    assert address_on({**bridge(), "IPAM": {"Config": None}}) == "127.0.0.1"


@pytest.mark.parametrize("interface", ["nobody0", ""])
def test_bridge_that_is_not_there_is_refused(interface: str) -> None:
    with pytest.raises(ConfigurationError, match="has no IPv4 address on this machine"):
        address_on(bridge({"Subnet": "127.0.0.0/8"}, interface=interface))
