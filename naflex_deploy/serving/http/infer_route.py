"""``POST /v2/models/NAME/infer`` as a bare ASGI application.

For a small tensor, FastAPI's routing would cost more than all other work on the request.
"""

from __future__ import annotations

import re

from starlette.types import Receive, Scope, Send

from naflex_deploy.serving.http import oip
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.service import Service, work

_PATH = re.compile(rf"/v2/models/([^/]+)(?:/versions/{oip.VERSION})?/infer")


class InferRoute:
    """The route for inference.

    Attributes:
        path: Name of the route in metrics.
        paths: Those that it takes.
    """

    path = "/v2/models/{name}/infer"
    paths = (path, f"/v2/models/{{name}}/versions/{oip.VERSION}/infer")

    def __init__(self, service: Service) -> None:
        self._service = service

    def takes(self, path: str) -> bool:
        """Whether a request's path belongs to this route."""
        return _PATH.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            Problem: The request failed, and no answer has been sent yet.
            ClientDisconnect: The sender left.
        """
        scope["route"] = self
        if scope["method"] != "POST":
            raise Problem(405, "method_not_allowed", f"expected POST, found {scope['method']}", allow="POST")
        service, name = self._service, scope["path"].split("/")[3]
        model = service.model(name)
        service.check_ready(model)
        headers = dict(scope["headers"])
        async with service.buffers.body(headers, receive, service.keys.client(scope, headers)) as body:
            length = headers.get(oip.HEADER_LENGTH.encode())
            inference = await work(
                len(body), oip.parse, body, None if length is None else length.decode("latin-1"), model, service.limits
            )
            model, served = await service.run(
                scope,
                receive,
                name,
                inference.images,
                inference.wanted,
                seconds=inference.seconds,
                priority=inference.priority,
            )
            size = sum(values.nbytes for item in served for values in item.outputs.values())
            content, kind = await work(size, oip.answer, inference, model, served)
        kind["content-length"] = str(len(content))
        raw = [(name.encode(), value.encode()) for name, value in kind.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send({"type": "http.response.body", "body": content})
