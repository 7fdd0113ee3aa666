"""NVIDIA's gRPC client against ``naflex-deploy serve --grpc-port``. tritonclient_grpc.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from serving import served
from tritonclient.grpc import service_pb2, service_pb2_grpc

import naflex_deploy as nd

bundle, images = map(Path, sys.argv[1:])
files = sorted(path for path in images.iterdir() if path.suffix == ".png")
contents = [path.read_bytes() for path in files]
expected = nd.load(bundle).embed(files)
Path("keys").write_text("secret\n")
key = {"authorization": "Bearer secret"}


STREAMS = 100


def part(number: int, content: bytes) -> bytes:
    """A field of a message, of less than 2 MiB."""
    size = len(content)
    return bytes([number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + content


def encoded(parts: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput("images", [len(parts)], "BYTES")
    tensor.set_data_from_numpy(np.array(parts, object))
    return tensor


def refused(call: Callable[[], object], status: str, said: str) -> None:
    with pytest.raises(triton.InferenceServerException, match=said) as caught:
        call()
    assert caught.value.status() == f"StatusCode.{status}", caught.value


async def many(address: str) -> None:
    async with triton_aio.InferenceServerClient(address) as client:
        calls = [client.infer("towers", [encoded([contents[n % len(files)]])], headers=key) for n in range(24)]
        for number, found in enumerate(await asyncio.gather(*calls)):
            row = expected[number % len(files)]
            np.testing.assert_allclose(found.as_numpy("pooled")[0], row, rtol=0, atol=1e-5)


options = ("--grpc-port", 0, "--api-keys", "keys", "--max-body", 1)
with served(f"towers={bundle}", *options) as events:
    address = events["grpc ready"]["address"]
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("towers", headers=key)
        assert client.get_server_metadata(headers=key).name == "naflex-deploy"
        metadata = client.get_model_metadata("towers", headers=key)
        assert {tensor.name for tensor in metadata.inputs} == {"images", "pixels"}
        assert [model.name for model in client.get_model_repository_index(headers=key).models] == ["towers"]

        found = client.infer("towers", [encoded(contents)], request_id="a", headers=key)
        np.testing.assert_allclose(found.as_numpy("pooled"), expected, rtol=0, atol=1e-5)
        assert (found.get_response().id, found.as_numpy("grid_hw").shape) == ("a", (len(files), 2))
        wanted = [triton.InferRequestedOutput("pooled")]
        found = client.infer(
            "towers", [encoded(contents[:1])], outputs=wanted, priority=1, timeout=20_000_000, headers=key
        )
        assert [output.name for output in found.get_response().outputs] == ["pooled"]

        array = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), np.uint8)
        pixels = triton.InferInput("pixels", list(array.shape), "UINT8")
        pixels.set_data_from_numpy(array)
        found = client.infer("towers", [pixels], headers=key)
        np.testing.assert_allclose(found.as_numpy("pooled"), nd.load(bundle).embed([*array]), rtol=0, atol=1e-5)

        def infer(name: str, tensor: triton.InferInput, **options: object) -> Callable[[], object]:
            return lambda: client.infer(name, [tensor], **({"headers": key} | options))

        good, bad, large = encoded(contents), encoded([contents[0], b"no image"]), encoded([b"x" * (2 << 20)])
        absent = [triton.InferRequestedOutput("absent")]
        refused(infer("towers", good, headers={}), "UNAUTHENTICATED", "valid API key")
        refused(infer("absent", good), "NOT_FOUND", "no model named 'absent'")
        refused(infer("towers", bad), "INVALID_ARGUMENT", "expected JPEG, PNG")
        refused(infer("towers", good, outputs=absent), "INVALID_ARGUMENT", "no output 'absent'")
        refused(infer("towers", large), "RESOURCE_EXHAUSTED", "larger than max")

        # What would become gigabytes once it is decoded, or holds the server meanwhile.
        nothing, numbers = b"\x2a\x00" * 400_000, bytes([1]) * 700_000
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for message, said in (
                (nothing, "at most 4096 fields"),
                (part(5, part(3, numbers)), "bytes of numbers"),
                (part(5, part(5, part(4, numbers))), "bytes of numbers"),
                (part(1, b"towers")[:-1], "damaged"),
                (part(1, b"\xff"), "damaged"),
            ):
                with pytest.raises(grpc.RpcError, match=said) as caught:
                    call(message, metadata=[*key.items()], timeout=30)
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            # Streams that send nothing hold up nobody.
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            ends = threading.Event()
            idle = [stream(iter(ends.wait, True), metadata=[*key.items()]) for _ in range(STREAMS)]
            ends.wait(0.2)
            assert client.is_server_live()
            assert client.is_server_ready()
            ends.set()
            assert [list(one) for one in idle] == [[]] * STREAMS
        np.testing.assert_allclose(client.infer("towers", [good], headers=key).as_numpy("pooled"), expected, atol=1e-5)

        answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)), headers=key)
        for number, parts in enumerate((contents[:1], [b"no image"], contents[1:2])):
            client.async_stream_infer("towers", [encoded(parts)], request_id=str(number))
        streamed = [answers.get(timeout=60) for _ in range(3)]
        client.stop_stream()
        assert [error is None for _, error in streamed] == [True, False, True]
        for place, row in ((0, 0), (2, 1)):
            np.testing.assert_allclose(
                streamed[place][0].as_numpy("pooled"), expected[row : row + 1], rtol=0, atol=1e-5
            )

    asyncio.run(many(address))

    # Typed contents instead of raw bytes, as other clients send them.
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="towers")
        tensor = request.inputs.add(name="images", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(contents[0])
        answer = stub.ModelInfer(request, metadata=[*key.items()])
        row = np.frombuffer(
            answer.raw_output_contents[[output.name for output in answer.outputs].index("pooled")], "<f4"
        )
        np.testing.assert_allclose(row, expected[0], rtol=0, atol=1e-5)

    metrics = httpx.get(events["ready"]["url"] + "/metrics", headers=key).text
    assert 'naflex_requests_total{route="grpc ModelInfer",status="401"} 1.0' in metrics
