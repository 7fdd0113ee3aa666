"""naflex-deploy serve"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from naflex_deploy.cli.api_keys import read_keys
from naflex_deploy.cli.terminal import reports_errors, steps
from naflex_deploy.core.errors import UsageError, needs_extra

_POSITIVE, _NOT_NEGATIVE, _SECONDS = click.IntRange(1), click.IntRange(0), click.FloatRange(0)


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE...")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Port to listen on; 0 selects a free one.",
)
@click.option(
    "--api-keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of accepted API keys, one per line. Default: no key is required.",
)
@click.option(
    "--queue-tokens",
    default=0,
    type=_NOT_NEGATIVE,
    metavar="N",
    help="Tokens admitted before requests get 429. Default: 32 packs of the largest budget.",
)
@click.option(
    "--max-wait",
    default=2.0,
    show_default=True,
    type=_SECONDS,
    metavar="MS",
    help="Milliseconds that an idle engine waits for a pack to fill up.",
)
@click.option(
    "--deadline",
    default=30.0,
    show_default=True,
    type=_SECONDS,
    metavar="S",
    help="Seconds within which a request must be answered.",
)
@click.option(
    "--slo",
    default=0.0,
    type=_SECONDS,
    metavar="MS",
    help="Milliseconds within which a request should be answered: one that would wait longer gets 429 when it arrives. "
    "Default: the deadline.",
)
@click.option(
    "--max-body",
    default=32,
    show_default=True,
    type=_POSITIVE,
    metavar="N",
    help="Maximum size of a request's body in MiB.",
)
@click.option(
    "--max-items",
    default=64,
    show_default=True,
    type=_POSITIVE,
    metavar="N",
    help="Maximum number of images per request.",
)
@click.option(
    "--normalize", is_flag=True, help="Divide the vectors of /v1/embeddings by their lengths, unless a request says no."
)
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Port for the Open Inference Protocol over gRPC (extra grpc); 0 selects a free one. Default: none.",
)
@click.option(
    "--traces",
    "traced",
    is_flag=True,
    help="Send traces with OpenTelemetry (extra otel), to where OTEL_EXPORTER_OTLP_ENDPOINT says.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="Lines of the log on stderr: objects of JSON, or text.",
)
@click.option(
    "--notice",
    default=1.0,
    show_default=True,
    type=_SECONDS,
    metavar="S",
    help="Seconds from SIGTERM to closing the socket, so that load balancers notice.",
)
@reports_errors
def command(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    api_keys: Path | None,
    queue_tokens: int,
    max_wait: float,
    deadline: float,
    slo: float,
    max_body: int,
    max_items: int,
    normalize: bool,
    grpc_port: int | None,
    traced: bool,
    log_format: Literal["json", "text"],
    notice: float,
) -> None:
    """Serve bundles over HTTP: Open Inference Protocol v2, /v1/embeddings, /v1/classify, and a page at /.

    \b
    naflex-deploy serve build/photo
    curl -F image=@photo.jpg http://127.0.0.1:8000/v1/embeddings

    Each bundle becomes a model, named after its directory or by NAME=. SIGHUP reloads the bundles, SIGTERM drains.
    """
    with needs_extra("serve"):
        from naflex_deploy.runtime.scheduling.queue import Policy
        from naflex_deploy.serving.http.limits import Limits
        from naflex_deploy.serving.http.metrics import Metrics
        from naflex_deploy.serving.http.server import Settings, load_models, serve_models
    traces = beside = None
    if traced:
        from naflex_deploy.serving.http.logs.traces import Traces

        traces = Traces()
    if grpc_port is not None:
        from naflex_deploy.serving.grpc.server import beside as grpc_server

        beside = grpc_server(host, grpc_port)
    settings = Settings(
        host=host,
        port=port,
        policy=Policy(queue_tokens=queue_tokens, max_wait=max_wait / 1000),
        limits=Limits(
            body_bytes=max_body << 20,
            # One client may hold half of the room, and its body must fit into that.
            buffered_bytes=max(512, 4 * max_body) << 20,
            items=max_items,
            deadline_seconds=deadline,
            goal_seconds=slo / 1000,
        ),
        keys=read_keys(api_keys) if api_keys else (),
        normalize=normalize,
        notice_seconds=notice,
        log_format=log_format,
        beside=beside,
    )
    metrics = Metrics()
    with steps() as report:
        report(f"loading {', '.join(bundles)}")
        models = load_models(_named(bundles), settings.policy, metrics)
    if not serve_models(models, settings, metrics, traces):
        sys.exit(1)


def _named(bundles: tuple[str, ...]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for bundle in bundles:
        name, separator, path = bundle.partition("=")
        if not separator:
            name, path = Path(bundle).resolve().name, bundle
        if name in paths:
            raise UsageError(f"two bundles are named '{name}'", hint="give one of them another name: NAME=BUNDLE")
        paths[name] = Path(path)
    return paths
