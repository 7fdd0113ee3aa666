"""Metrics of a server for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from naflex_deploy.runtime.scheduling.outcome import ImageOutcome, PackReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from naflex_deploy.serving.http.models import Models

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_FILL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "naflex_requests",
            "Number of requests by route and HTTP status",
            ["route", "status"],
            registry=self.registry,
        )
        self.rejections = Counter(
            "naflex_rejections",
            "Number of requests that were not served, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.request_seconds = self._histogram(
            "naflex_request_seconds", "Seconds from the arrival of a request to its answer", ["route"]
        )
        self.images = Counter("naflex_images", "Number of images that ran", ["model"], registry=self.registry)
        self.tokens = Counter("naflex_tokens", "Number of tokens that ran", ["model"], registry=self.registry)
        self.texts = Counter("naflex_texts", "Number of texts that ran", ["model"], registry=self.registry)
        self.packs = Counter("naflex_packs", "Number of packs that ran", ["model"], registry=self.registry)
        self.fill = Histogram(
            "naflex_pack_fill",
            "Tokens of a pack as a share of its budget",
            ["model"],
            buckets=_FILL,
            registry=self.registry,
        )
        self.wait = self._histogram(
            "naflex_queue_wait_seconds", "Seconds that a decoded image waits for its run", ["model"]
        )
        self.stage = self._histogram(
            "naflex_stage_seconds", "Seconds in the stages decode, lay_out and run", ["model", "stage"]
        )
        self._decode: dict[str, Histogram] = {}

    def _histogram(self, name: str, text: str, labels: list[str]) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)

    def pack_observer(self, model: str) -> Callable[[PackReport], None]:
        """A function for a scheduler to call after each pack."""
        images, tokens, packs = (counter.labels(model) for counter in (self.images, self.tokens, self.packs))
        fill, wait = self.fill.labels(model), self.wait.labels(model)
        lay_out, run = self.stage.labels(model, "lay_out"), self.stage.labels(model, "run")

        def observe(report: PackReport) -> None:
            images.inc(report.images)
            tokens.inc(report.tokens)
            packs.inc()
            fill.observe(report.tokens / report.budget)
            lay_out.observe(report.laid_out)
            run.observe(report.ran)
            for seconds in report.waits:
                wait.observe(seconds)

        return observe

    def decoded(self, model: str, served: list[ImageOutcome]) -> None:
        stage = self._decode.get(model) or self._decode.setdefault(model, self.stage.labels(model, "decode"))
        for item in served:
            stage.observe(item.decoded)

    def watch(self, models: Models) -> None:
        """Report the state of every model's queue whenever metrics are collected."""
        self.registry.register(_Queues(models))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Queues(Collector):
    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        admitted = GaugeMetricFamily(
            "naflex_admitted_tokens", "Number of tokens that are decoding, waiting or running", labels=["model"]
        )
        waiting = GaugeMetricFamily("naflex_queue_tokens", "Number of tokens that wait for a pack", labels=["model"])
        capacity = GaugeMetricFamily(
            "naflex_queue_capacity_tokens", "Maximum number of admitted tokens", labels=["model"]
        )
        for model in self._models.all():
            scheduler = model.scheduler
            admitted.add_metric([model.name], scheduler.admitted_tokens)
            waiting.add_metric([model.name], scheduler.waiting_tokens)
            capacity.add_metric([model.name], scheduler.capacity)
        return [admitted, waiting, capacity]
