"""What the consumer says of itself on /metrics."""

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """One look at /metrics; latency buckets are (upper bound in seconds, running count)."""

    consumed: int
    skipped: int
    alerts: int
    lag_messages: int | None
    lag_seconds: float | None
    latency: tuple[tuple[float, float], ...]

    def latency_since(self, earlier: "Scrape | None", quantile: float) -> float | None:
        """
        Return a latency quantile, seconds, of what was committed since an earlier look.

        Interpolated within its bucket, as Prometheus' histogram_quantile does.
        """
        before = dict(earlier.latency) if earlier else {}
        buckets = [(bound, count - before.get(bound, 0.0)) for bound, count in self.latency]
        total = buckets[-1][1] if buckets else 0.0
        if total == 0:
            return None
        lower, below = 0.0, 0.0
        for bound, count in buckets:
            if count >= quantile * total:
                if bound == float("inf"):
                    return lower
                return lower + (bound - lower) * (quantile * total - below) / (count - below)
            lower, below = bound, count
        return lower


def scrape(port: int) -> Scrape:
    """Read /metrics of the consumer on this machine. Raises OSError while it does not answer."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT_SECONDS
    ) as answer:
        text = answer.read().decode()
    values: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values.setdefault(sample.name, []).append((sample.labels, sample.value))

    def total(name: str) -> int:
        return int(sum(value for _, value in values.get(name, [])))

    lag = values.get("fraudstream_consumer_lag_messages")
    latency = values.get("fraudstream_end_to_end_latency_seconds_bucket", [])
    return Scrape(
        consumed=total("fraudstream_messages_consumed_total"),
        skipped=total("fraudstream_messages_skipped_total"),
        alerts=total("fraudstream_alerts_committed_total"),
        lag_messages=None if not lag else int(sum(value for _, value in lag)),
        lag_seconds=None
        if not lag
        else max(value for _, value in values["fraudstream_consumer_lag_seconds"]),
        latency=tuple(sorted((float(labels["le"]), value) for labels, value in latency)),
    )
