"""Traces: the ids that W3C Trace Context passes on, for the log, and spans that OpenTelemetry exports.

https://www.w3.org/TR/trace-context/ describes the header ``traceparent``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from naflex_deploy.core.errors import needs_extra
from naflex_deploy.core.version import __version__
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def trace_of(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The ids of the trace and the span that a request belongs to; empty where it names none, or not as W3C has it."""
    given = headers.get(b"traceparent")
    found = _PARENT.fullmatch(given) if given else None
    return {"trace_id": found[1].decode(), "parent_id": found[2].decode()} if found else {}


class Traces:
    """Spans of requests. Where they go, and how many of them, say the variables of OpenTelemetry, such as
    ``OTEL_EXPORTER_OTLP_ENDPOINT`` and ``OTEL_TRACES_SAMPLER``.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        with needs_extra("otel"):
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        # Of the two, what the environment says goes first.
        resource = Resource({"service.name": "naflex-deploy", "service.version": __version__}).merge(Resource.create())
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("naflex_deploy", __version__)
        self._propagator, self._trace = TraceContextTextMapPropagator(), trace

    def start(self, method: str, headers: Mapping[bytes, bytes]) -> Any:
        """Begin the span of a request, inside the one that its headers name."""
        names = (b"traceparent", b"tracestate")
        carrier = {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}
        parent = self._propagator.extract(carrier)
        return self._tracer.start_span(method, parent, self._trace.SpanKind.SERVER)

    def ids(self, span: Any) -> dict[str, str]:
        """The ids of a span, for the log."""
        context = span.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def note_stages(self, span: Any, served: Sequence[ImageOutcome]) -> None:
        """Add spans of decoding, waiting and running inside that of a request: those of its last image."""
        if not served or not span.is_recording():
            return
        last = max(served, key=lambda item: item.decoded + item.waited + item.ran)
        start = time.time_ns() - round(1e9 * (last.decoded + last.waited + last.ran))
        inside = self._trace.set_span_in_context(span)
        for name, seconds in (("decode", last.decoded), ("wait", last.waited), ("run", last.ran)):
            end = start + round(1e9 * seconds)
            attributes = {"naflex.pack": last.pack} if name == "run" else {}
            self._tracer.start_span(name, inside, start_time=start, attributes=attributes).end(end)
            start = end

    def end(self, span: Any, method: str, route: str, status: int, fields: Mapping[str, Any]) -> None:
        """End the span of a request, with what is known of it now."""
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
        known = {name: fields[name] for name in ("model", "images", "texts", "tokens", "reason") if name in fields}
        span.set_attributes({f"naflex.{name}": value for name, value in known.items()})
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what has not been sent yet."""
        self._provider.shutdown()
