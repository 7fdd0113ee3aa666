"""Start the gRPC server beside that of HTTP, in the same event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.serving.grpc.service import handlers
from naflex_deploy.serving.http.gate import log
from naflex_deploy.serving.http.service import Service

HEADERS = 16 << 10
"""Bytes of a call's metadata."""

STREAMS = 128
"""Calls of one connection at a time."""


def beside(host: str, port: int) -> Callable[[Service], Awaitable[Callable[[float], Awaitable[object]]]]:
    """What starts the server, and returns what stops it: admitted calls get so many seconds to be answered.

    Raises:
        MissingExtraError: gRPC, or the messages of the protocol, are not installed.
    """
    with needs_extra("grpc"):
        import grpc
        from tritonclient.grpc import service_pb2
    return partial(_start, grpc, service_pb2, host, port)


async def _start(grpc: Any, pb: Any, host: str, port: int, service: Service) -> Callable[[float], Awaitable[object]]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", service.limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", HEADERS),
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.max_allowed_incoming_connections", service.limits.connections),
            ("grpc.max_connection_idle_ms", 1000 * service.limits.idle_seconds),
            ("grpc.server_handshake_timeout_ms", round(1000 * service.limits.receive_seconds)),
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers((handlers(service, pb, grpc),))
    address = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{address}:{port}")
    except RuntimeError:
        raise UsageError(
            f"cannot listen on {host}, port {port}", hint="choose another address or --grpc-port; 0 selects a free one"
        ) from None
    await server.start()
    log.info("grpc ready", extra={"fields": {"address": f"{host}:{bound}"}})

    async def stop(seconds: float) -> None:
        await server.stop(seconds)

    return stop
