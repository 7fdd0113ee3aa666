"""Sends requests over kept-alive HTTP/1.1 connections from an event loop in one thread, at little cost per request."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from naflex_deploy.bench.load.load import Status
from naflex_deploy.core.errors import NaflexError, UsageError, nearest, needs_extra

CONNECTIONS = 256
"""Largest number of requests in flight; further ones wait for a connection, which counts as latency."""

STATUSES: dict[int, Status] = {200: "ok", 429: "rejected", 503: "rejected", 504: "late"}


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time.

    Args:
        done: Called with the connection and the status of each answer, which is 0 if the connection was lost or the
            answer is not HTTP.
    """

    def __init__(self, done: Callable[[Connection, int], None]) -> None:
        import httptools

        self._done = done
        self._new_parser, self._parser_error = httptools.HttpResponseParser, httptools.HttpParserError
        self._parser: httptools.HttpResponseParser | None = None
        self._status = 0
        self._last = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._parser is not None:
            self._finish(0)

    def send(self, request: bytes) -> None:
        """Send a whole request."""
        self._parser, self._status = self._new_parser(self), 0
        if self.transport is None:
            self._finish(0)
        else:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:  # Nothing was asked for.
            self._close()
            return
        try:
            self._parser.feed_data(data)
        except self._parser_error:
            self._close()
            self._finish(0)
            return
        if self._status:
            if self._last:
                self._close()
            self._finish(self._status)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer. Those with a status below 200 only announce the real one."""
        assert self._parser is not None
        if (status := self._parser.get_status_code()) >= 200:
            self._status, self._last = status, not self._parser.should_keep_alive()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    def _finish(self, status: int) -> None:
        self._parser = None
        self._done(self, status)


def post(path: str, body: bytes, headers: Mapping[str, str], host: str = "127.0.0.1") -> bytes:
    """The bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def served_model(url: str, name: str, api_key: str = "") -> str:
    """The server's model of that name.

    Raises:
        UsageError: This is not the URL of a server, or the server has no such model; the hint names those it has.
        NaflexError: The server does not answer, or does not list its models.
    """
    _address(url)
    request = Request(f"{url.rstrip('/')}/v1/models", headers=_authorization(api_key))
    try:
        with urlopen(request, timeout=30) as answer:
            models = [str(entry["id"]) for entry in json.load(answer)["data"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NaflexError(f"no server lists its models at {url}: {error}", hint="start it, or check --url") from None
    if name not in models:
        raise UsageError(f"the server at {url} has no model '{name}'", hint=f"pass --model; {nearest(name, models)}")
    return name


def _authorization(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _address(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether the connection is encrypted.

    Raises:
        UsageError: The URL has no scheme or host, or has more than a scheme, a host and a port.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if "@" in parts.netloc:  # The message does not repeat the password.
        raise UsageError(
            f"expected the URL of a server, found one with a user's name or password before {host}",
            hint="leave them out; --api-keys names a file with the key to send",
        )
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise UsageError(f"expected the URL of a server, found '{url}'", hint="such as http://127.0.0.1:8000")
    secure = parts.scheme == "https"
    return host, port or (443 if secure else 80), secure


def embedding_request(image: bytes, *, url: str, model: str, api_key: str = "", seconds: float = 0.0) -> bytes:
    """A request for one image's vector in the Open Inference Protocol, with the encoded image as a tensor.

    Args:
        image: The image.
        url: URL of the server.
        model: Name of the model.
        api_key: Where one is required.
        seconds: Time within which to answer, where the server is to know it.
    """
    content = len(image).to_bytes(4, "little") + image
    tensor = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": len(content)},
    }
    output = {"name": "pooled", "parameters": {"binary_data": True}}
    parameters = {"parameters": {"timeout": round(1e6 * seconds)}} if seconds else {}
    header = json.dumps({"inputs": [tensor], "outputs": [output], **parameters}).encode()
    headers = {"inference-header-content-length": str(len(header)), **_authorization(api_key)}
    return post(f"/v2/models/{quote(model)}/infer", header + content, headers, urlsplit(url).netloc)


class Server:
    """Sends requests to a server in turn; `send` is a `load.Send`.

    Args:
        url: URL of the server.
        requests: Complete requests, which are sent in turn.

    Raises:
        MissingExtraError: httptools is not installed.
    """

    def __init__(self, url: str, requests: Sequence[bytes]) -> None:
        host, port, secure = _address(url)
        with needs_extra("serve"):
            import httptools  # noqa: F401 - each connection uses it
        self._address = host, port
        self._tls = ssl.create_default_context() if secure else None
        self._url, self._requests = url, requests
        self._idle: list[Connection] = []
        self._line: deque[tuple[bytes, Callable[[Status], None]]] = deque()
        self._answers: dict[Connection, Callable[[Status], None]] = {}
        self._count = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()
            self._count = 1
        except OSError as error:
            self._stop()
            reason = error.strerror or str(error)
            raise NaflexError(f"no server answers at {self._url}: {reason}", hint="start it, or check --url") from None
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop()

    def send(self, number: int, done: Callable[[Status], None]) -> None:
        """Send a request as soon as a connection is free."""
        request = self._requests[number % len(self._requests)]
        self._loop.call_soon_threadsafe(self._enqueue, request, done)

    def _enqueue(self, request: bytes, done: Callable[[Status], None]) -> None:
        self._line.append((request, done))
        self._advance()

    def _advance(self) -> None:
        """Give waiting requests a free connection, or open one for each while `CONNECTIONS` allows."""
        while self._line and self._idle:
            connection = self._idle.pop()
            if connection.transport is None:
                self._count -= 1
                continue
            request, self._answers[connection] = self._line.popleft()
            connection.send(request)
        while len(self._opening) < len(self._line) and self._count < CONNECTIONS:
            self._count += 1
            self._opening.add(self._loop.create_task(self._open()))

    def _done(self, connection: Connection, status: int) -> None:
        self._answers.pop(connection)(STATUSES.get(status, "error"))
        if connection.transport is None:
            self._count -= 1
        else:
            self._idle.append(connection)
        self._advance()

    async def _open(self) -> None:
        try:
            await self._connect()
        except OSError:
            self._count -= 1
            if self._line:
                self._line.popleft()[1]("error")
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._opening.discard(task)
        self._advance()

    async def _connect(self) -> None:
        host, port = self._address
        make = partial(Connection, self._done)
        _, connection = await self._loop.create_connection(make, host, port, ssl=self._tls)
        self._idle.append(connection)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for connection in [*self._idle, *self._answers]:
            if connection.transport:
                connection.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
