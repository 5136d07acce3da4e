"""Price tables, and what others published: dated YAML with its source, read and checked."""

from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from peer.errors import ConfigurationError

_PACKAGE = "peer.experiments"

Table = TypeVar("Table", bound="_Table")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every table says of itself."""

    name: str
    date: date


class FunctionPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of functions that are billed by memory and time. MB as the provider counts them: 1,024 make a GB.

    A function has `memory / mb_per_vcpu` of a virtual processor.
    """

    source: str
    usd_per_gb_second: float
    usd_per_request: float
    granularity_ms: int
    least_mb: int
    most_mb: int
    mb_per_vcpu: int


class InstanceType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rented machine."""

    vcpus: int
    memory_gib: float
    usd_per_hour: float


class InstancePrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of rented machines, by name."""

    source: str
    types: dict[str, InstanceType]


class StorePrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of an object store. A month has 730 hours, a GB 2**30 bytes."""

    source: str
    usd_per_put: float
    usd_per_get: float
    usd_per_gb_month: float
    usd_per_gb_moved: float


class CloudPrices(_Table, frozen=True, kw_only=True):
    """What a cloud asks in one region."""

    region: str
    function: FunctionPrices
    instances: InstancePrices
    store: StorePrices

    def instance(self, name: str) -> InstanceType:
        """Return what is known of an instance type.

        Raises:
            ConfigurationError: nothing is.
        """
        try:
            return self.instances.types[name]
        except KeyError as error:
            known = ", ".join(self.instances.types)
            raise ConfigurationError(
                f"table {self.name} has no instance type {name!r}: take {known}"
            ) from error


class OwnPrices(_Table, frozen=True, kw_only=True):
    """What machines of one's own cost."""

    region: str
    source: str
    usd_per_core_hour: float
    usd_per_gib_hour: float


class Published(_Table, frozen=True, kw_only=True):
    """A paper's own figures; ratios are "up to"."""

    title: str
    authors: str
    source: str
    artefact: str
    gradient_time_improvement: float
    cost_ratio: float
    peer_instances: dict[str, str]


class Assumptions(_Table, frozen=True, kw_only=True):
    """What scenarios assume; see the packaged file for where each is from."""

    cold_start_seconds: float
    store_latency_seconds: float
    call_seconds: float
    store_bytes_per_second: float
    allocator_slowdown: float
    account_concurrency: int
    packing_overhead: float

    def transfer_seconds(self, num_bytes: float) -> float:
        """Return how long an object of this size is on its way to or from the store."""
        return self.store_latency_seconds + num_bytes / self.store_bytes_per_second


@cache
def cloud_prices() -> CloudPrices:
    """Return the table of the cloud that the paper used."""
    return _read(_packaged("prices/aws-us-east-1.yaml"), CloudPrices)


@cache
def own_prices() -> OwnPrices:
    """Return the example of machines of one's own."""
    return _read(_packaged("prices/on-premises.yaml"), OwnPrices)


@cache
def published() -> Published:
    """Return what the paper says."""
    return _read(_packaged("published/barrak-2023.yaml"), Published)


@cache
def assumptions() -> Assumptions:
    """Return what scenarios assume unless they are told otherwise."""
    return _read(_packaged("published/assumptions.yaml"), Assumptions)


def read_prices(path: Path) -> CloudPrices | OwnPrices:
    """Return a table of the user's: one that has `usd_per_core_hour` is of machines of one's own.

    Raises:
        ConfigurationError: it cannot be read, or is no table.
    """
    is_own = b"usd_per_core_hour" in _bytes_of(path)
    return _read_file(path, OwnPrices) if is_own else _read_file(path, CloudPrices)


def read_assumptions(path: Path) -> Assumptions:
    """Return the user's assumptions.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    return _read_file(path, Assumptions)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _read_file(path: Path, kind: type[Table]) -> Table:
    try:
        return _read(_bytes_of(path).decode(), kind)
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no such table: {error}") from error


def _packaged(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text()


def _read(text: str, kind: type[Table]) -> Table:
    return msgspec.convert(yaml.safe_load(text), kind)
