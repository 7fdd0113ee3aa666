"""Trace ids in the log, spans at a collector, and the log as text."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from naflex_deploy.serving.http.logs.lines import JsonLines, TextLines
from naflex_deploy.serving.http.logs.traces import Traces, trace_of
from tests.serving.support import pixels, png, running

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
IMAGE = {"input": base64.b64encode(png(pixels(0))).decode()}


@pytest.fixture
def collector(monkeypatch):
    """The spans that were exported."""
    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "pages")
        yield spans
        server.shutdown()


def lines(caplog):
    return [json.loads(JsonLines().format(r)) for r in caplog.records if r.message == "request"]


def test_a_request_is_a_span_with_its_stages(collector, caplog):
    traces = Traces()
    with running(traces=traces) as server, caplog.at_level(logging.INFO, "naflex_deploy.serving"):
        assert httpx.post(f"{server.url}/v1/embeddings", json=IMAGE, headers=PARENT).status_code == 200
        assert httpx.post(f"{server.url}/v2/models/absent/infer", json={}).status_code == 404
        assert httpx.get(f"{server.url}/health").status_code == 200
    traces.close()
    by_name = {span.name: span for span in collector}
    assert sorted(by_name) == ["POST /v1/embeddings", "POST /v2/models/{name}/infer", "decode", "run", "wait"]
    whole = by_name["POST /v1/embeddings"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    attributes = {item.key: item.value for item in whole.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["naflex.model"].string_value == "sums"
    stages = [by_name[name] for name in ("decode", "wait", "run")]
    ends = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in stages]
    assert ends[0][1] == ends[1][0] <= ends[1][1] == ends[2][0] <= ends[2][1] <= whole.end_time_unix_nano
    assert {span.parent_span_id for span in stages} == {whole.span_id}
    other = by_name["POST /v2/models/{name}/infer"]
    assert not other.parent_span_id
    first, second = lines(caplog)
    assert (first["trace_id"], first["span_id"]) == (TRACE, whole.span_id.hex())
    assert second["trace_id"] == other.trace_id.hex() != TRACE


def test_without_opentelemetry_the_log_has_the_ids_that_were_sent(caplog):
    with running() as server, caplog.at_level(logging.INFO, "naflex_deploy.serving"):
        httpx.post(f"{server.url}/v1/embeddings", json=IMAGE, headers=PARENT)
        httpx.post(f"{server.url}/v1/embeddings", json=IMAGE)
    first, second = lines(caplog)
    assert (first["trace_id"], first["parent_id"]) == (TRACE, SPAN)
    assert "trace_id" not in second


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"01-{TRACE}-{SPAN}-00-more", True),
        (f"ff-{TRACE}-{SPAN}-00", False),
        (f"00-{'0' * 32}-{SPAN}-00", False),
        (f"00-{TRACE}-{'0' * 16}-00", False),
        (f"00-{TRACE.upper()}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}", False),
        ("", False),
        ('00-"\n', False),
    ],
)
def test_ids_are_read_as_w3c_has_them(given, known):
    assert trace_of({b"traceparent": given.encode()}) == ({"trace_id": TRACE, "parent_id": SPAN} if known else {})


def test_the_log_as_text_is_one_line_an_event():
    record = logging.LogRecord("x", logging.INFO, "", 0, "request", (), None)
    record.created, record.msecs = 1.25, 250.0
    record.fields = {
        "path": "/v1/a b",
        "status": 200,
        "ms": 1.5,
        "models": ["a", "b"],
        "message": 'say "x"\nmore',
        "e": "",
    }
    assert TextLines().format(record) == (
        "1970-01-01T00:00:01.250Z info    request "
        'path="/v1/a b" status=200 ms=1.5 models="[\\"a\\", \\"b\\"]" message="say \\"x\\"\\nmore" e=""'
    )


def test_the_page_of_routes_loads_nothing_and_names_every_route():
    with running(keys=["secret"]) as server:
        answer = httpx.get(f"{server.url}/docs")
        document = httpx.get(f"{server.url}/openapi.json", headers={"x-api-key": "secret"}).json()
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert all(f"<code>{path}</code>" in answer.text for path in document["paths"])
    assert "truncate" in answer.text
    assert not [part for part in ("<script", "src=", "@import", "url(") if part in answer.text]
