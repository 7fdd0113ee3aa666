"""The Open Inference Protocol, spoken by the public tritonclient and by hand."""

from __future__ import annotations

import base64
import gzip
import json
from contextlib import suppress

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.oip import parse
from naflex_deploy.serving.http.problems import Problem
from tests.serving.support import pixels, png, running, vector

IMAGES = [pixels(0), pixels(1, 16, 4), pixels(2, 4, 4)]


@pytest.fixture(scope="module")
def server():
    with running(names=("sums", "other")) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as found:
        yield found


def files_input(images=IMAGES, binary=True):
    tensor = triton.InferInput("images", [len(images)], "BYTES")
    content = [png(image) for image in images]
    tensor.set_data_from_numpy(np.array(content if binary else list(map(base64.b64encode, content)), object), binary)
    return tensor


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sums")
    assert client.is_model_ready("sums", "1")
    assert client.get_server_metadata()["name"] == "naflex-deploy"
    found = client.get_model_metadata("sums")
    assert [(t["name"], t["datatype"], t["shape"]) for t in found["outputs"]] == [
        ("pooled", "FP32", [-1, 8]),
        ("logits", "FP32", [-1, 3]),
        ("tokens", "FP32", [-1, 8]),
        ("grid_hw", "INT32", [-1, 2]),
    ]
    assert [m["name"] for m in client.get_model_repository_index()] == ["sums", "other"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_encoded_images(client, binary_in, binary_out):
    outputs = [triton.InferRequestedOutput(name, binary_out) for name in ("pooled", "grid_hw", "tokens")]
    result = client.infer("sums", [files_input(binary=binary_in)], outputs=outputs, request_id="seven")
    expected = np.stack([vector(image) for image in IMAGES])
    np.testing.assert_allclose(result.as_numpy("pooled"), expected, rtol=1e-5, atol=1e-6)
    assert result.as_numpy("grid_hw").tolist() == [[2, 3], [4, 1], [1, 1]]
    tokens = result.as_numpy("tokens")
    assert tokens.shape == (11, 8)
    np.testing.assert_allclose(tokens[:6].sum(0), expected[0], rtol=1e-5, atol=1e-6)
    assert result.get_response()["id"] == "seven"


@pytest.mark.parametrize("binary", [True, False])
def test_raw_pixels(client, binary):
    images = np.stack([pixels(3), pixels(4)])
    tensor = triton.InferInput("pixels", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary)
    result = client.infer("other", [tensor], model_version="1")
    expected = np.stack([vector(image) for image in images])
    np.testing.assert_allclose(result.as_numpy("pooled"), expected, rtol=1e-5, atol=1e-6)
    assert {output["name"] for output in result.get_response()["outputs"]} == {"pooled", "logits", "tokens", "grid_hw"}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_their_limit(client, server, algorithm):
    result = client.infer("sums", [files_input()], request_compression_algorithm=algorithm)
    assert result.as_numpy("pooled").shape == (3, 8)
    bomb = gzip.compress(bytes(40 << 20))
    answer = httpx.post(f"{server.url}/v2/models/sums/infer", content=bomb, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["type"]) == (413, "body_too_large")


def test_asynchronous_requests_and_parameters(client):
    waiting = [client.async_infer("sums", [files_input([image])], priority=1, timeout=5_000_000) for image in IMAGES]
    for image, request in zip(IMAGES, waiting, strict=True):
        np.testing.assert_allclose(request.get_result().as_numpy("pooled")[0], vector(image), rtol=1e-5, atol=1e-6)


def test_errors_reach_the_public_client_as_text(client):
    with pytest.raises(InferenceServerException, match="did you mean 'sums'"):
        client.get_model_metadata("sumz")
    broken = triton.InferInput("images", [1], "BYTES")
    broken.set_data_from_numpy(np.array([b"\xff\xd8\xffnot a jpeg"], object))
    with pytest.raises(InferenceServerException, match="damaged or truncated"):
        client.infer("sums", [broken])
    with pytest.raises(InferenceServerException, match="no output 'poold'"):
        client.infer("sums", [files_input()], outputs=[triton.InferRequestedOutput("poold")])
    tensor = triton.InferInput("images", [1], "BYTES")
    tensor.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer("sums", [tensor])


def body(tensor: dict, content: bytes = b"", **fields) -> tuple[bytes, str]:
    header = json.dumps({"inputs": [tensor], **fields}).encode()
    return header + content, str(len(header))


PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 3, 3]}
FILES = {"name": "images", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("tensor", "content", "message"),
    [
        ({**PIXELS, "shape": [1, 2, 3, 4]}, b"", r"expected \[N, H, W, 3\]"),
        ({**PIXELS, "shape": []}, b"", "expected a shape"),
        ({**PIXELS, "shape": [1, -2, 3, 3]}, b"", "expected a shape"),
        ({**PIXELS, "shape": [1, 0, 3, 3]}, b"", r"expected \[N, H, W, 3\]"),
        ({**PIXELS, "shape": [65, 1, 1, 3]}, b"", "1 to 64 images"),
        ({**PIXELS, "shape": [1, 2**40, 2**40, 3], "parameters": {"binary_data_size": 18}}, bytes(18), "bytes"),
        ({**PIXELS, "parameters": {"binary_data_size": 17}}, bytes(17), "expected 18 bytes"),
        ({**PIXELS, "parameters": {"binary_data_size": 18}}, bytes(19), "found 19"),
        ({**PIXELS, "parameters": {"binary_data_size": "18"}}, bytes(18), "found 18"),
        ({**PIXELS, "data": [256] * 18}, b"", "integers in 0..255"),
        ({**PIXELS, "data": [0.5] * 18}, b"", "integers in 0..255"),
        ({**PIXELS, "datatype": "FP32"}, b"", "expected UINT8"),
        ({**PIXELS, "name": "image"}, b"", "'images' or 'pixels'"),
        ({**FILES, "shape": [0]}, b"", "1 to 64 images"),
        ({**FILES, "shape": [2**40]}, b"", "1 to 64 images"),
        ({**FILES, "data": ["%%"]}, b"", "base64"),
        ({**FILES, "data": [1]}, b"", "base64"),
        ({**FILES, "data": []}, b"", "expected 1 elements"),
        ({**FILES, "parameters": {"binary_data_size": 3}}, bytes(3), "cut off"),
        ({**FILES, "parameters": {"binary_data_size": 8}}, b"\xff\xff\xff\xff1234", "cut off"),
        (
            {**FILES, "parameters": {"binary_data_size": 9}},
            b"\1\0\0\0x1234",
            "expected 1 elements, found 4 bytes after them",
        ),
    ],
)
def test_wrong_tensors_are_named(server, tensor, content, message):
    model = server.models.get("sums")
    with pytest.raises(Problem, match=message) as found:
        parse(*body(tensor, content), model, Limits())
    assert found.value.status == 422


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=5), st.integers(-9, 300).map(str)))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_problem_and_no_crash(server, content, length):
    with pytest.raises(Problem):
        parse(content, length, server.models.get("sums"), Limits())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda part: st.lists(part, max_size=4) | st.dictionaries(st.sampled_from(["name", "shape", "data"]), part),
        max_leaves=10,
    ),
    st.sampled_from(["shape", "data", "parameters", "datatype", "name"]),
)
@example(value=[""], field="data")
@example(value=["0000"], field="data")
@settings(max_examples=200, deadline=None)
def test_any_json_value_anywhere_is_a_problem_and_no_crash(server, value, field):
    for tensor in (PIXELS, FILES):
        content, _ = body({**tensor, field: value})
        with suppress(Problem):
            parsed = parse(content, None, server.models.get("sums"), Limits())
            assert (tensor, field) == (FILES, "data"), "no other field may be anything"
            assert parsed.images == [base64.b64decode(value[0], validate=True)] != [b""]
