"""A typed client for the HTTP server.

with Client("http://127.0.0.1:8000") as client:
    vectors = client.embed(["page.png", "receipt.jpg"])
"""

from __future__ import annotations

import json
import random
import struct
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.errors import ImageError, NaflexError
from naflex_deploy.runtime.images.inputs import require_list
from naflex_deploy.runtime.results.classes import Prediction

Source = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

_HEADER_LENGTH = "inference-header-content-length"
_RETRIED = frozenset({429, 502, 503})


class ServerError(NaflexError):
    """The server refused the request or failed, even after retries.

    Attributes:
        status: HTTP status; 0 where there was no answer.
        reason: One of the reasons in the server's documentation, such as ``queue_full``.
        request_id: Identifies the request in the server's log.
    """

    def __init__(self, status: int, reason: str, message: str, request_id: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason
        self.request_id = request_id


class Client:
    """Talks to one server over kept-alive connections. Safe to use from several threads.

    Args:
        url: URL of the server.
        model: Name of the bundle. Default: the first one that the server has loaded.
        api_key: API key, where the server requires one.
        timeout: Seconds to wait for an answer.
        retries: Maximum number of retries after overload or a broken connection.
        batch: Maximum number of images per request.
        transport: Replaces the transport of httpx in tests.
        sleep: Replaces `time.sleep` in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        api_key: str = "",
        timeout: float = 60.0,
        retries: int = 5,
        batch: int = 16,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._model, self._retries, self._batch, self._sleep = model, retries, batch, sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Whether the server answers, its models are warm, and it is not draining."""
        try:
            return self._http.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """The loaded models: ``id``, ``variant``, ``outputs``, ``classes``, ``budget``."""
        found: list[dict[str, Any]] = self._send("GET", "/v1/models").json()["data"]
        return found

    def embed(self, images: Iterable[Source]) -> Float:
        """Embed every image as one vector: [N, D] float32, in order; [0, 0] for no images.

        Raises:
            UsageError: ``images`` is a single image instead of a list.
            ImageError: An image was refused; the message names it by its index.
            ServerError: Anything else went wrong.
        """
        rows = [self._infer(batch, start, ["pooled"])["pooled"] for start, batch in self._batches(images)]
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)

    def embed_texts(self, texts: Sequence[str]) -> Float:
        """Embed every text as one vector in the space of the images: [N, D] float32, in order; [0, 0] for no texts.

        Raises:
            ServerError: The model has no text tower, or anything else went wrong.
        """
        found = []
        for start in range(0, len(texts), self._batch):
            content = {"texts": list(texts[start : start + self._batch]), "encoding_format": "base64"}
            answer = self._send("POST", "/v1/embeddings", json=content | {"model": self._model}).json()
            found += [np.frombuffer(b64decode(item["embedding"]), "<f4") for item in answer["data"]]
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    def tokens(self, images: Iterable[Source]) -> list[Float]:
        """Embed every patch: one [h, w, D] float32 array per image, in order."""
        found: list[Float] = []
        for start, batch in self._batches(images):
            outputs = self._infer(batch, start, ["tokens", "grid_hw"])
            grids = outputs["grid_hw"].tolist()
            ends = np.cumsum([h * w for h, w in grids])[:-1]
            parts = np.split(outputs["tokens"], ends)
            found += [part.reshape(h, w, -1) for part, (h, w) in zip(parts, grids, strict=True)]
        return found

    def classify(self, images: Iterable[Source], top: int = 5) -> list[list[Prediction]]:
        """The ``top`` most probable classes of each image, best first."""
        found = []
        for start, batch in self._batches(images):
            files = [("image", (f"{start + i}", content)) for i, content in enumerate(map(_encoded, batch))]
            data = {"model": self._model, "top": str(top)}
            answer = self._send("POST", "/v1/classify", start=start, files=files, data=data).json()
            found += [[Prediction(c["label"], c["score"]) for c in item["classes"]] for item in answer["data"]]
        return found

    def _batches(self, images: Iterable[Source]) -> Iterable[tuple[int, tuple[Source, ...]]]:
        rest, start = iter(require_list(images)), 0
        while batch := tuple(islice(rest, self._batch)):
            yield start, batch
            start += len(batch)

    def _infer(self, images: Sequence[Source], start: int, outputs: list[str]) -> dict[str, npt.NDArray[Any]]:
        if not self._model:
            self._model = self.models()[0]["id"]
        parts = [_encoded(image) for image in images]
        content = b"".join(chain.from_iterable((struct.pack("<I", len(part)), part) for part in parts))
        tensor = {
            "name": "images",
            "datatype": "BYTES",
            "shape": [len(parts)],
            "parameters": {"binary_data_size": len(content)},
        }
        wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        header = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
        response = self._send(
            "POST",
            f"/v2/models/{self._model}/infer",
            start=start,
            content=header + content,
            headers={_HEADER_LENGTH: str(len(header))},
        )
        return _tensors(response)

    def _send(self, method: str, path: str, *, start: int = 0, **options: Any) -> httpx.Response:
        """Send a request, and retry after overload: after the time in Retry-After or a random, doubling time."""
        for attempt in range(self._retries + 1):
            pause = random.uniform(0.5, 1.0) * 0.1 * 2**attempt
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                failure: NaflexError = ServerError(0, "no_answer", f"{self._http.base_url} gave no answer: {error}")
            else:
                if response.is_success:
                    return response
                failure = _failure(response, start)
                if response.status_code not in _RETRIED:
                    break
                pause = max(pause, _seconds(response.headers.get("retry-after", "")))
            if attempt < self._retries:
                self._sleep(pause)
        raise failure


def _encoded(image: Source) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    stream = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _tensors(response: httpx.Response) -> dict[str, npt.NDArray[Any]]:
    length = int(response.headers[_HEADER_LENGTH])
    content, start, found = response.content, length, {}
    for output in json.loads(content[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        dtype = {"FP32": "<f4", "INT32": "<i4"}[output["datatype"]]
        values = np.frombuffer(content[start : start + size], dtype)
        found[output["name"]] = values.reshape(output["shape"])
        start += size
    return found


def _failure(response: httpx.Response, start: int) -> NaflexError:
    try:
        content = response.json()
        fields = content["error"] if isinstance(content["error"], dict) else content
        reason, message, hint = fields["type"], fields["message"], fields.get("hint") or ""
        param, request_id = fields.get("param") or "", fields.get("request_id", "")
    except (ValueError, KeyError, TypeError):
        return ServerError(response.status_code, "unknown", f"status {response.status_code}: {response.text[:200]!r}")
    if reason == "bad_image":
        index = start + int(param.removeprefix("input[").removesuffix("]") or 0)
        return ImageError(f"image {index}: {message}", hint=hint)
    return ServerError(response.status_code, reason, message, request_id, hint)


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), 60.0) if retry_after.isdigit() else 0.0
