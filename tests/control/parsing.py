"""Metrics as Prometheus reads them."""

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def parsed(text: str) -> Iterable[Metric]:
    """The families of an OpenMetrics text; raises ValueError where it is none."""
    families: Iterable[Metric] = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return families
