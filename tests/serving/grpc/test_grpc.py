"""The Open Inference Protocol over gRPC, asked through the published stubs; NVIDIA's clients run in integrations."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub as Stub

from naflex_deploy.core.errors import UsageError
from naflex_deploy.serving.grpc.server import beside
from naflex_deploy.serving.http.app import create_app
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.metrics import Metrics
from naflex_deploy.serving.http.models import Models
from naflex_deploy.serving.http.service import Service
from tests.serving.support import pixels, png, summing_model, vector

KEY = [("authorization", "Bearer secret")]
IMAGES = [pixels(0), pixels(1, 16, 4), pixels(2, 4, 4)]


@contextmanager
def on_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


class Addresses(logging.Handler):
    """The addresses at which servers said that they are ready."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "grpc ready":
            self.found.append(record.fields["address"])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Service]]:
    metrics, heard = Metrics(), Addresses()
    models = Models({"sums": "sums"}, lambda name, path: summing_model(name))
    service = create_app(models, limits=Limits(body_bytes=1 << 16), keys=["secret"], metrics=metrics).service
    log = logging.getLogger("naflex_deploy.serving")
    level = log.level
    log.addHandler(heard)
    log.setLevel(logging.INFO)
    with on_loop() as loop:
        try:
            stop = asyncio.run_coroutine_threadsafe(beside("127.0.0.1", 0)(service), loop).result(20)
            log.setLevel(level)
            yield heard.found[0], service
            asyncio.run_coroutine_threadsafe(stop(5), loop).result(20)
        finally:
            log.removeHandler(heard)
            models.close(10)


@pytest.fixture(scope="module")
def stub(served: tuple[str, Service]) -> Iterator[Stub]:
    with grpc.insecure_channel(served[0]) as channel:
        yield Stub(channel)


def request(*contents: bytes, model: str = "sums", **fields: object) -> pb.ModelInferRequest:
    found = pb.ModelInferRequest(model_name=model, **fields)
    found.inputs.add(name="images", datatype="BYTES", shape=[len(contents)])
    found.raw_input_contents.append(b"".join(len(part).to_bytes(4, "little") + part for part in contents))
    return found


def outputs(answer: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    kinds = {"FP32": "<f4", "INT64": "<i8", "INT32": "<i4"}
    return {
        output.name: np.frombuffer(content, kinds[output.datatype]).reshape(output.shape)
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def test_images_get_the_vectors_of_the_engine(stub: Stub) -> None:
    answer = stub.ModelInfer(request(*map(png, IMAGES), id="a"), metadata=KEY)
    found = outputs(answer)
    np.testing.assert_allclose(found["pooled"], [vector(image) for image in IMAGES], rtol=1e-5, atol=1e-6)
    assert found["grid_hw"].tolist() == [[image.shape[0] // 4, image.shape[1] // 4] for image in IMAGES]
    assert (answer.id, answer.model_name) == ("a", "sums")


def test_values_that_are_typed_instead_of_raw(stub: Stub) -> None:
    sent = pb.ModelInferRequest(model_name="sums")
    sent.inputs.add(name="images", datatype="BYTES", shape=[1]).contents.bytes_contents.append(png(IMAGES[0]))
    sent.outputs.add(name="pooled")
    found = outputs(stub.ModelInfer(sent, metadata=KEY))
    assert list(found) == ["pooled"]
    np.testing.assert_allclose(found["pooled"][0], vector(IMAGES[0]), rtol=1e-5, atol=1e-6)
    sent = pb.ModelInferRequest(model_name="sums")
    tensor = sent.inputs.add(name="pixels", datatype="UINT8", shape=[1, *IMAGES[0].shape])
    tensor.contents.uint_contents.extend(IMAGES[0].ravel().tolist())
    found = outputs(stub.ModelInfer(sent, metadata=KEY))
    np.testing.assert_allclose(found["pooled"][0], vector(IMAGES[0]), rtol=1e-5, atol=1e-6)


def test_what_is_said_of_server_and_models(stub: Stub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live  # these two need no key
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="sums"), metadata=KEY).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=KEY).name == "naflex-deploy"
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="sums"), metadata=KEY)
    assert {tensor.name for tensor in metadata.inputs} == {"images", "pixels"}
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=KEY)
    assert [(model.name, model.state) for model in index.models] == [("sums", "READY")]


@pytest.mark.parametrize(
    ("sent", "metadata", "code", "said"),
    [
        (request(png(IMAGES[0])), [], "UNAUTHENTICATED", "valid API key"),
        (request(png(IMAGES[0]), model="absent"), KEY, "NOT_FOUND", "no model named 'absent'"),
        (request(png(IMAGES[0]), model_version="7"), KEY, "NOT_FOUND", "has version 1 only"),
        (request(png(IMAGES[0]), b"no image"), KEY, "INVALID_ARGUMENT", "expected JPEG, PNG"),
        (request(b"x" * (1 << 17)), KEY, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
    ids=["key", "model", "version", "image", "size"],
)
def test_each_refusal_has_its_status(stub: Stub, sent, metadata, code: str, said: str) -> None:
    with pytest.raises(grpc.RpcError, match=said) as caught:
        stub.ModelInfer(sent, metadata=metadata)
    assert caught.value.code().name == code


def test_a_bad_image_of_a_stream_does_not_end_it(stub: Stub) -> None:
    parts = [png(IMAGES[0]), b"no image", png(IMAGES[1])]
    answers = list(
        stub.ModelStreamInfer(iter([request(part, id=str(n)) for n, part in enumerate(parts)]), metadata=KEY)
    )
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]
    for answer, image in zip(answers[::2], IMAGES[:2], strict=True):
        np.testing.assert_allclose(outputs(answer.infer_response)["pooled"][0], vector(image), rtol=1e-5, atol=1e-6)


def test_a_server_that_drains_admits_nothing(served: tuple[str, Service], stub: Stub) -> None:
    _, service = served
    service.draining = True
    try:
        assert not stub.ServerReady(pb.ServerReadyRequest()).ready
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(png(IMAGES[0])), metadata=KEY)
    finally:
        service.draining = False
    assert caught.value.code().name == "UNAVAILABLE"
    assert dict(caught.value.trailing_metadata())["error-type"] == "draining"


def test_calls_are_counted(served: tuple[str, Service], stub: Stub) -> None:
    service = served[1]
    counted = service.metrics.requests.labels("grpc ServerMetadata", 401)
    before = counted._value.get()
    with pytest.raises(grpc.RpcError):
        stub.ServerMetadata(pb.ServerMetadataRequest())
    assert counted._value.get() == before + 1
    assert b'naflex_requests_total{route="grpc ServerMetadata",status="401"}' in service.metrics.text()


def test_a_port_that_is_taken_is_refused(served: tuple[str, Service]) -> None:
    address, service = served
    with on_loop() as loop, pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1"):
        asyncio.run_coroutine_threadsafe(beside("127.0.0.1", int(address.rpartition(":")[2]))(service), loop).result(20)
