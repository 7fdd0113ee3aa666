"""Messages of the protocol: requests to images, results and problems to answers.

The messages are those that NVIDIA publishes with its client, so that there is one definition of them in a process.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http import oip, oip_outputs
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem


def inference_of(message: Any, model: Model, limits: Limits) -> oip.Inference:
    """The request of a ``ModelInferRequest``.

    Raises:
        Problem: It is not valid; the problem says what is wrong and where.
    """
    raw = list(message.raw_input_contents)
    if raw and len(raw) != len(message.inputs):
        what = f"expected raw_input_contents for {len(message.inputs)} inputs, found {len(raw)}"
        raise Problem(422, "bad_request", what, param="raw_input_contents")
    content = b"".join(raw) if raw else b"".join(_content(tensor) for tensor in message.inputs)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": _values(tensor.parameters) | {"binary_data_size": len(content)},
        }
        for tensor in message.inputs
    ]
    outputs = [{"name": output.name, "parameters": _values(output.parameters)} for output in message.outputs]
    request = {"id": message.id, "inputs": inputs, "outputs": outputs, "parameters": _values(message.parameters)}
    return oip.read(oip.validated(request), memoryview(content), model, limits)


def _content(tensor: Any) -> bytes:
    """The content of a tensor that does not come as raw bytes, as if it did."""
    if tensor.datatype == "BYTES":
        elements = tensor.contents.bytes_contents
        return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))
    values = np.array(tensor.contents.uint_contents, np.uint64)
    if values.size and values.max() > 255:
        raise Problem(422, "bad_request", f"'{tensor.name}': expected integers in 0..255, found {values.max()}")
    return values.astype(np.uint8).tobytes()


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, kind) for name, value, kind in found if kind is not None}


def answer_of(pb: Any, inference: oip.Inference, model: Model, served: Sequence[ImageOutcome]) -> Any:
    """The ``ModelInferResponse``, whose tensors are raw bytes."""
    message = pb.ModelInferResponse(model_name=model.name, model_version=oip.VERSION, id=inference.id)
    for output in inference.outputs:
        values = oip_outputs.values(output, served)
        message.outputs.add(name=output.name, datatype=output.datatype, shape=values.shape)
        message.raw_output_contents.append(values.tobytes())
    return message


def metadata_of(pb: Any, model: Model) -> Any:
    """The ``ModelMetadataResponse`` of a model."""
    found = oip.metadata(model)
    message = pb.ModelMetadataResponse(name=found["name"], versions=found["versions"], platform=found["platform"])
    for kind in ("inputs", "outputs"):
        for tensor in found[kind]:
            getattr(message, kind).add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    return message
