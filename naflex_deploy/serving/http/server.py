"""Run the server process: open the socket, handle signals, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn

from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.machine import cores
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.serving.http.app import create_app
from naflex_deploy.serving.http.gate import Gate, log
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.logs.lines import BufferedLines, Format
from naflex_deploy.serving.http.logs.traces import Traces
from naflex_deploy.serving.http.metrics import Metrics
from naflex_deploy.serving.http.models import Model, Models, open_model
from naflex_deploy.serving.http.receiving.connections import protocol
from naflex_deploy.serving.http.service import Service

SPARE = 256
"""Descriptors that are kept for files and pipes."""


Beside = Callable[[Service], Awaitable[Callable[[float], Awaitable[object]]]]


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        host, port: Address to listen on; port 0 selects a free one.
        policy: Policy of every model's queue.
        limits: Limits of requests.
        keys: Accepted API keys; without any, no key is required.
        normalize: Whether /v1/embeddings divides vectors by their lengths, where a request does not say.
        notice_seconds: Seconds between reporting not ready and closing the socket, so that load balancers notice.
        drain_seconds: Seconds within which the admitted requests must be answered.
        log_format: Of the lines on stderr.
        beside: Starts another server of the same service, and returns what stops it within so many seconds.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    keys: Collection[str] = ()
    normalize: bool = False
    notice_seconds: float = 1.0
    drain_seconds: float = 30.0
    log_format: Format = "json"
    beside: Beside | None = None


def load_models(paths: Mapping[str, Path], policy: Policy, metrics: Metrics) -> Models:
    """Open bundles by name. All of them share one pool of decoding threads."""
    decoders = ThreadPoolExecutor(cores(), "decode")

    def load(name: str, path: Path) -> Model:
        return open_model(
            name,
            path,
            policy=policy,
            decoders=decoders,
            on_pack=metrics.pack_observer(name),
            on_texts=metrics.texts.labels(name).inc,
        )

    return Models(paths, load)


def serve(paths: Mapping[str, Path], settings: Settings) -> bool:
    """Serve bundles until SIGTERM or SIGINT. SIGHUP reloads every bundle.

    Args:
        paths: Directories of the bundles, by name.
        settings: Settings of the server.

    Returns:
        Whether every admitted request was answered before the end.

    Raises:
        NaflexError: A bundle cannot be loaded, or the server cannot listen on the address.
    """
    metrics = Metrics()
    return serve_models(load_models(paths, settings.policy, metrics), settings, metrics)


def serve_models(models: Models, settings: Settings, metrics: Metrics, traces: Traces | None = None) -> bool:
    """Like `serve`, for models that are loaded already; ``traces`` takes the spans of requests.

    Raises:
        UsageError: The server cannot listen on the address.
    """
    with _bound(settings.host, settings.port) as address:
        flush_log = _prepare_process(settings.log_format)
        app = create_app(
            models,
            limits=settings.limits,
            keys=settings.keys,
            metrics=metrics,
            normalize=settings.normalize,
            traces=traces,
        )
        config = configured(app, settings, metrics)
        _Server(config, app.service, settings, flush_log).run(sockets=[address])
    answered = models.close(settings.drain_seconds)
    if traces is not None:
        traces.close()
    log.info("stopped", extra={"fields": {"all_answered": answered}})
    return answered


def configured(app: Gate, settings: Settings, metrics: Metrics) -> uvicorn.Config:
    """What uvicorn needs to know to serve an application."""
    limits = replace(settings.limits, connections=_connections(settings.limits.connections))
    return uvicorn.Config(
        app,
        http=protocol(limits, lambda reason: metrics.rejections.labels(reason).inc()),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
    )


def _connections(wanted: int) -> int:
    """As many connections as the system lets this process have, at most ``wanted``, with some descriptors to spare."""
    try:
        import resource
    except ImportError:  # Windows has no limit on sockets
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted + SPARE if hard == resource.RLIM_INFINITY else min(wanted + SPARE, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(1, min(wanted, most - SPARE))


def _prepare_process(log_format: Format) -> Callable[[], None]:
    """Set up logging and garbage collection of the process. Returns a function that flushes the log."""
    handler = BufferedLines(log_format)
    for logger, level in ((log, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    # The log does not show a record's thread and process, and looking them up costs more than the rest of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Threads switch sooner than after the default 5 ms, so that none of them blocks the event loop for long.
    sys.setswitchinterval(0.001)
    # Exempt the objects loaded so far from garbage collection, which would stop the server for a tenth of a second.
    gc.collect()
    gc.freeze()
    return handler.flush


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address and does not listen yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {host}, port {port}: {reason}",
            hint="choose another address or port; port 0 selects a free port",
        ) from None
    return found


class _Server(uvicorn.Server):
    """A uvicorn server that drains before it stops, and reloads bundles on SIGHUP."""

    def __init__(
        self, config: uvicorn.Config, service: Service, settings: Settings, flush_log: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service, self._settings, self._flush_log = service, settings, flush_log
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_beside: Callable[[float], Awaitable[object]] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._start, "drain")
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._start, "reload")
        if self._settings.beside is not None:
            self._stop_beside = await self._settings.beside(self._service)
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            names = [model.name for model in self._service.models.all()]
            goal = round(1000 * self._settings.limits.goal())
            log.info("ready", extra={"fields": {"url": f"http://{host}:{port}", "models": names, "slo_ms": goal}})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._stop_beside is not None:
            await self._stop_beside(self._settings.drain_seconds)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        self._flush_log()
        return await super().on_tick(counter)

    def _start(self, what: str) -> None:
        if what == "drain" and self._service.draining:
            self.should_exit = self.force_exit = True
            return
        task = asyncio.get_running_loop().create_task(self._drain() if what == "drain" else self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        self._service.draining = True
        log.info("draining")
        await asyncio.sleep(self._settings.notice_seconds)
        self.should_exit = True

    async def _reload(self) -> None:
        for model in self._service.models.all():
            try:
                await self._service.reload(model.name)
                log.info("reloaded", extra={"fields": {"model": model.name}})
            except NaflexError as error:
                log.error("reload failed", extra={"fields": {"model": model.name, "message": str(error)}})
