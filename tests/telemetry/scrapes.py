"""What Prometheus would scrape, and what `promtool` makes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from streamstores import StreamStore
from streamstores.integrations.opentelemetry import instrument
from tests.services import give_up, given_url

Series = dict[str, float]
"""The value of each series, by its name and labels as PromQL writes them."""


class Scraped:
    """The metrics of this process, as the Prometheus exporter shows them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry, scope_info_enabled=False)
        self.meters = MeterProvider([reader], shutdown_on_exit=False)

    def instrument(self, store: StreamStore, **options: Any) -> StreamStore:
        return instrument(store, meter_provider=self.meters, **options)

    def scrape(self) -> Series:
        return {
            _named(sample.name, sample.labels): sample.value
            for family in self._registry.collect()
            for sample in family.samples
        }


def _named(name: str, labels: dict[str, str]) -> str:
    return f"{name}{{{', '.join(f'{key}={json.dumps(labels[key])}' for key in labels)}}}"


def promtool() -> str:
    """The path of promtool, which Debian's package `prometheus` brings."""
    path = given_url("promtool") or shutil.which("promtool")
    if path is None:
        give_up("promtool", "it is not installed")
    return path


def firing(rules: Path, scrapes: list[Series], alert: str, folder: Path) -> bool:
    """Whether the alert fires by the last of the scrapes, which are a minute apart."""
    names = sorted({name for scrape in scrapes for name in scrape})
    series = [
        {"series": name, "values": " ".join(_value(scrape.get(name)) for scrape in scrapes)}
        for name in names
    ]
    last = f"{len(scrapes) - 1}m"
    # The alert that must not fire is the only expectation: promtool fails if it does.
    case = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": last, "alertname": alert, "exp_alerts": []}],
    }
    test = folder / f"{alert}.json"
    test.write_text(
        json.dumps(
            {"rule_files": [os.fspath(rules)], "evaluation_interval": "1m", "tests": [case]}
        )
    )
    run = subprocess.run(
        [promtool(), "test", "rules", test], capture_output=True, text=True, check=False
    )
    told = run.stdout + run.stderr
    assert (run.returncode == 0) == ("SUCCESS" in told), told
    assert run.returncode == 0 or f"alertname: {alert}" in told, told
    return run.returncode != 0


def _value(value: float | None) -> str:
    return "_" if value is None else repr(value)
