"""Open Inference Protocol v2, with the binary tensor extension: requests to images, results to tensors.

A request has one of two inputs: ``images`` [N] BYTES, which are encoded files; or ``pixels`` [N, H, W, 3] UINT8, where
one image may also be [H, W, 3]. `oip_outputs` says which outputs there are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http import oip_outputs
from naflex_deploy.serving.http.limits import Limits, Sent
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.oip_outputs import WantedOutput
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving.json_bounds import decode_base64, parse_json

HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"
_SIGNATURE = "see GET /v2/models/NAME for the signature"
_LONGEST = 1 << 62
"""Of a tensor's dimensions, checked before any are multiplied: Python's integers grow without a limit."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class _Tensor(_Part):
    name: str
    """`images` or `pixels`."""
    datatype: str
    """`BYTES` for `images`, `UINT8` for `pixels`."""
    shape: list[int] = Field(max_length=8, fail_fast=True)
    """[N] for `images`; [N, H, W, 3] or [H, W, 3] for `pixels`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """`binary_data_size`, where the content follows the JSON as bytes."""
    data: list[Any] | None = None
    """The content, where it does not follow as bytes: base64 texts for `images`, integers for `pixels`."""


class _Output(_Part):
    name: str
    """Name of an output of the bundle; `grid_hw`; of a vision-language model also `image_embeds`, `image_grid_thw`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """`binary_data`, to get this output as bytes after the JSON; `datatype`, `FP16` or `FP32`, of tokens for language
    models, which are FP16 by default."""


class InferRequest(_Part):
    """The JSON part of a request."""

    id: str = ""
    """Id of the request, which the answer repeats."""
    inputs: list[_Tensor] = Field(min_length=1, max_length=8, fail_fast=True)
    """One tensor, `images` or `pixels`."""
    outputs: list[_Output] = Field(default_factory=list, max_length=64, fail_fast=True)
    """Outputs to return. Default: all of them."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """`timeout` in microseconds; `priority` from -1 to 1, where 1 goes first; `binary_data_output`, a boolean."""


@dataclass(frozen=True, eq=False)
class Inference:
    """A parsed request.

    Attributes:
        id: Id of the request, which the answer repeats.
        images: The images, in order.
        outputs: Those to send.
        wanted: Names of the engine's outputs to compute.
        priority: 0 is normal; larger values go first.
        seconds: Time within which to answer; ``None`` for the server's limit.
    """

    id: str
    images: list[Sent]
    outputs: list[WantedOutput]
    wanted: list[str]
    priority: int
    seconds: float | None


def metadata(model: Model) -> dict[str, Any]:
    """Metadata of a model, as ``GET v2/models/NAME`` returns it."""
    images = {"name": "images", "datatype": "BYTES", "shape": [-1]}
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"naflex-deploy_{model.variant.backend}",
        "inputs": [images, pixels],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shape}
            for name, (datatype, shape) in oip_outputs.known(model).items()
        ],
    }


def parse(body: bytes | bytearray, header_length: str | None, model: Model, limits: Limits) -> Inference:
    """Parse a request.

    Args:
        body: The JSON part, followed by the bytes of binary tensors.
        header_length: Length of the JSON part in bytes; ``None`` where the body is all JSON.

    Raises:
        Problem: The request is not valid; the problem says what is wrong and where.
    """
    if header_length is None:
        header, binary = body, memoryview(b"")
    else:
        if not header_length.isascii() or not header_length.isdigit() or int(header_length) > len(body):
            raise _wrong(f"expected {HEADER_LENGTH} of at most {len(body)}, found {header_length[:20]!r}")
        header, binary = body[: int(header_length)], memoryview(body)[int(header_length) :]
    try:
        request = parse_json(InferRequest, header, limits.items)
    except ValidationError as error:
        raise _invalid(error) from None
    return read(request, binary, model, limits)


def validated(content: dict[str, Any]) -> InferRequest:
    """The JSON part of a request, from its values; a `Problem` where they are not valid."""
    try:
        return InferRequest.model_validate(content)
    except ValidationError as error:
        raise _invalid(error) from None


def read(request: InferRequest, binary: memoryview, model: Model, limits: Limits) -> Inference:
    """Read a request.

    Args:
        request: The JSON part.
        binary: The bytes of its tensors.

    Raises:
        Problem: The request is not valid; the problem says what is wrong and where.
    """
    if len(request.inputs) != 1 or request.inputs[0].name not in ("images", "pixels"):
        found = [tensor.name for tensor in request.inputs]
        raise _wrong(f"expected one input, 'images' or 'pixels', found {found[:5]}", "inputs")
    tensor = request.inputs[0]
    if not tensor.shape or min(tensor.shape) < 0 or max(tensor.shape) > _LONGEST:
        raise _wrong(f"expected a shape, found {tensor.shape!s:.80}", "inputs[0].shape")
    content = _binary(tensor, binary)
    images = _encoded(tensor, content, limits) if tensor.name == "images" else _pixels(tensor, content, limits)
    parameters = request.parameters
    timeout = _number(parameters, "timeout")
    outputs = _outputs(request, model)
    return Inference(
        request.id,
        images,
        outputs,
        oip_outputs.computed([output.name for output in outputs], model),
        max(-1, min(1, _number(parameters, "priority"))),
        timeout / 1e6 if timeout else None,
    )


def answer(inference: Inference, model: Model, served: Sequence[ImageOutcome]) -> tuple[bytes, dict[str, str]]:
    """The body of the answer, and its headers."""
    outputs, chunks = [], []
    for output in inference.outputs:
        values = oip_outputs.values(output, served)
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(values.shape)}
        if output.binary:
            chunks.append(values.tobytes())
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = values.reshape(-1).tolist()
        outputs.append(entry)
    content = {"id": inference.id} if inference.id else {}
    header = to_json({**content, "model_name": model.name, "model_version": VERSION, "outputs": outputs})
    if not chunks:
        return header, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join([header, *chunks]), headers


def _binary(tensor: _Tensor, binary: memoryview) -> memoryview | None:
    size = tensor.parameters.get("binary_data_size")
    for name in ("shared_memory_region", "shared_memory_offset"):
        if name in tensor.parameters:
            raise _wrong("shared memory is not supported, expected binary data", f"inputs[0].parameters.{name}")
    if size is None:
        return None
    if size != len(binary):
        raise _wrong(f"expected {size} bytes after the JSON, found {len(binary)}", "inputs[0]")
    return binary


def _encoded(tensor: _Tensor, content: memoryview | None, limits: Limits) -> list[Sent]:
    count = math.prod(tensor.shape)
    _check_type(tensor, "BYTES")
    limits.check_count(count, "inputs[0]", _SIGNATURE)
    images: list[Sent] = []
    if content is None:
        for text in _flat(tensor):
            try:
                images.append(decode_base64(text))
            except (TypeError, ValueError):
                raise _wrong("expected base64 text", f"inputs[0].data[{len(images)}]") from None
    else:
        start = 0
        while start < len(content) and len(images) < count:
            if start + 4 > len(content):
                raise _wrong(f"the length of element {len(images)} is cut off", "inputs[0]")
            (length,) = struct.unpack_from("<I", content, start)
            if start + 4 + length > len(content):
                raise _wrong(f"element {len(images)} is cut off", "inputs[0]")
            images.append(bytes(content[start + 4 : start + 4 + length]))
            start += 4 + length
        if start != len(content):
            raise _wrong(f"expected {count} elements, found {len(content) - start} bytes after them", "inputs[0]")
    if len(images) != count:
        raise _wrong(f"expected {count} elements, found {len(images)}", "inputs[0]")
    return images


def _pixels(tensor: _Tensor, content: memoryview | None, limits: Limits) -> list[Sent]:
    _check_type(tensor, "UINT8")
    shape = tensor.shape if len(tensor.shape) == 4 else [1, *tensor.shape]
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise _wrong(f"expected [N, H, W, 3] or [H, W, 3], found {tensor.shape[:8]}", "inputs[0].shape")
    limits.check_count(shape[0], "inputs[0]", _SIGNATURE)
    size = shape[0] * shape[1] * shape[2] * 3
    if content is not None:
        if len(content) != size:
            raise _wrong(f"expected {size} bytes, found {len(content)}", "inputs[0]")
        return [*np.frombuffer(content, np.uint8).reshape(shape)]
    data = _flat(tensor)
    if len(data) != size or not all(isinstance(value, int) and 0 <= value <= 255 for value in data):
        raise _wrong(f"expected {size} integers in 0..255, found {len(data)} values", "inputs[0].data")
    return [*np.array(data, np.uint8).reshape(shape)]


def _flat(tensor: _Tensor) -> list[Any]:
    """The data as a flat list; it may be nested like the shape."""
    data: list[Any] = tensor.data or []
    for _ in tensor.shape[1:]:
        if not (data and all(isinstance(part, list) for part in data)):
            break
        data = [value for part in data for value in part]
    return data


def _outputs(request: InferRequest, model: Model) -> list[WantedOutput]:
    known = oip_outputs.known(model)
    everywhere = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return [WantedOutput(name, everywhere, known[name][0]) for name in oip_outputs.default(model)]
    found = []
    for index, output in enumerate(request.outputs):
        where = f"outputs[{index}]"
        if output.name not in known:
            raise _wrong(f"no output '{output.name[:80]}', expected one of {list(known)}", where)
        if output.parameters.get("classification"):
            raise _wrong("classification of outputs is not supported, use /v1/classify", where)
        if "shared_memory_region" in output.parameters:
            raise _wrong("shared memory is not supported, expected binary data", where)
        datatype, _ = known[output.name]
        asked = output.parameters.get("datatype", datatype)
        if asked != datatype and (datatype != "FP16" or asked != "FP32"):
            allowed = "FP16 or FP32" if datatype == "FP16" else datatype
            raise _wrong(f"'{output.name}': expected {allowed}, found {asked!r:.20}", f"{where}.parameters.datatype")
        found.append(WantedOutput(output.name, bool(output.parameters.get("binary_data", everywhere)), asked))
    return found


def _check_type(tensor: _Tensor, expected: Literal["BYTES", "UINT8"]) -> None:
    if tensor.datatype != expected:
        raise _wrong(f"'{tensor.name}': expected {expected}, found {tensor.datatype[:20]}", "inputs[0].datatype")


def _number(parameters: dict[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if not isinstance(value, int):
        raise _wrong(f"expected an integer, found {value!r:.20}", f"parameters.{name}")
    return value


def _invalid(error: ValidationError) -> Problem:
    first = error.errors(include_input=False, include_url=False)[0]
    return _wrong(first["msg"], ".".join(map(str, first["loc"])) or None)


def _wrong(message: str, param: str | None = None) -> Problem:
    return Problem(422, "bad_request", message, hint=_SIGNATURE, param=param)
