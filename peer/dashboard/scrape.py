"""One reading of a `/metrics` page, and what can be asked of it."""

import math
from collections.abc import Iterable, Mapping

import requests
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from peer.errors import PeerlessError

_LONGEST_PAGE_BYTES = 4 << 20
_CONNECT_SECONDS = 2.0
_READ_SECONDS = 5.0

Labels = Mapping[str, str]


class PageUnreadable(PeerlessError):
    """A `/metrics` page is not there, or is none."""


class Scrape:
    """The samples of one page, by name; names are as on the wire, with `_total` or `_bucket`."""

    def __init__(self, samples: Mapping[str, list[tuple[Labels, float]]]) -> None:
        self._samples = samples

    @classmethod
    def parse(cls, text: str) -> "Scrape":
        """Return what a page in Prometheus' text format says; values that are no numbers are left out.

        Raises:
            PageUnreadable: it is not in that format.
        """
        samples: dict[str, list[tuple[Labels, float]]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if not math.isnan(sample.value):
                        samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise PageUnreadable(f"is no page of metrics: {error}") from error
        return cls(samples)

    def samples(self, name: str, **labels: str) -> list[tuple[Labels, float]]:
        """Return labels and value of each sample of this name that has these labels."""
        return [
            (found, value)
            for found, value in self._samples.get(name, ())
            if all(found.get(label) == wanted for label, wanted in labels.items())
        ]

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples of this name with these labels, None if there is none."""
        values = [value for _, value in self.samples(name, **labels)]
        return sum(values) if values else None

    def by_label(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return the sums of the samples of this name, by the value of one label."""
        sums: dict[str, float] = {}
        for found, value in self.samples(name, **labels):
            key = found.get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def values_of(self, label: str) -> set[str]:
        """Return every value that a label has on the page."""
        return {
            labels[label] for samples in self._samples.values() for labels, _ in samples if label in labels
        }


def fetch(session: requests.Session, url: str) -> Scrape:
    """Return a page.

    Raises:
        PageUnreadable: nothing answers, it answers with an error, or with something else; the message says
            which, and goes on after "the page at …".
    """
    try:
        with session.get(
            url, timeout=(_CONNECT_SECONDS, _READ_SECONDS), allow_redirects=False, stream=True
        ) as response:
            if response.status_code != 200:
                raise PageUnreadable(f"answers {response.status_code}")
            body = response.raw.read(_LONGEST_PAGE_BYTES + 1, decode_content=True)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise PageUnreadable(f"does not answer ({type(error).__name__})") from error
    if len(body) > _LONGEST_PAGE_BYTES:
        raise PageUnreadable(f"is longer than {_LONGEST_PAGE_BYTES >> 20} MiB")
    return Scrape.parse(body.decode("utf-8", "replace"))


def quantile(fraction: float, cumulative: Iterable[tuple[float, float]]) -> float | None:
    """Return a quantile of a histogram, as Prometheus' `histogram_quantile` estimates it.

    Args:
        fraction: 0 to 1.
        cumulative: upper bound and number of observations up to it; the last bound is infinity.

    Returns:
        None without observations; the last finite bound if the quantile lies above it.
    """
    buckets = sorted(cumulative)
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = fraction * buckets[-1][1]
    below_bound, below_count = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return below_bound or None
            share = (rank - below_count) / (count - below_count) if count > below_count else 0.0
            return below_bound + (bound - below_bound) * share
        below_bound, below_count = bound, count
    return None


class Window:
    """The growth of counters over the last seconds; a counter that falls has begun anew.

    Args:
        seconds: how far back.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._readings: dict[str, list[tuple[float, float]]] = {}

    def add(self, key: str, now: float, value: float | None) -> None:
        """Take one reading at a monotonic time."""
        if value is None:
            self._readings.pop(key, None)
            return
        readings = self._readings.setdefault(key, [])
        if readings and value < readings[-1][1]:
            readings.clear()
        readings.append((now, value))
        # one reading older than the window stays, so that the rate spans all of it
        while len(readings) > 2 and readings[1][0] <= now - self._seconds:
            readings.pop(0)

    def rate(self, key: str) -> float | None:
        """Return the growth a second, None before the second reading."""
        readings = self._readings.get(key, ())
        if len(readings) < 2 or readings[-1][0] <= readings[0][0]:
            return None
        return (readings[-1][1] - readings[0][1]) / (readings[-1][0] - readings[0][0])
