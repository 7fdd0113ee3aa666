"""Answer a request in the server's Python backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from naflex_deploy.core.errors import ImageError


def respond(backend: Any, request: Any, run: Callable[[list[bytes]], Mapping[str, np.ndarray[Any, Any]]]) -> Any:
    """The response to a request.

    Args:
        backend: The module ``triton_python_backend_utils``, which only the server's Python has.
        request: Has encoded images in its tensor ``images``.
        run: Turns the images into the tensors of the response, by name. An `ImageError` fails this request alone.
    """
    images = backend.get_input_tensor_by_name(request, "images").as_numpy().reshape(-1)
    try:
        tensors = run([bytes(image) for image in images])
    except ImageError as error:
        # Without a code it would be an internal error, which HTTP clients see as status 500 instead of 400.
        return backend.InferenceResponse(error=backend.TritonError(str(error), backend.TritonError.INVALID_ARG))
    return backend.InferenceResponse(output_tensors=[backend.Tensor(*tensor) for tensor in tensors.items()])
