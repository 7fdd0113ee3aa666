"""The OpenAPI document: bodies that routes parse themselves, and every status that a route can give."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from naflex_deploy.serving.http import oip
from naflex_deploy.serving.http.gate import HEALTH, OPEN
from naflex_deploy.serving.http.infer_route import InferRoute
from naflex_deploy.serving.http.schemas import body

_TEXT = {"type": "string"}
_FIELDS = {
    "message": _TEXT,
    "type": {**_TEXT, "description": "One of a closed set of reasons."},
    "code": {"type": "integer", "description": "The HTTP status."},
    "param": {"anyOf": [_TEXT, {"type": "null"}], "description": "The part of the request that is wrong."},
    "hint": {**_TEXT, "description": "What to do about it."},
    "request_id": _TEXT,
}
_REQUIRED = ["message", "type", "code", "request_id"]
_PROBLEM = {"type": "object", "required": _REQUIRED, "properties": _FIELDS}
_PROBLEMS = {
    "/v2": {"type": "object", "required": ["error", *_REQUIRED], "properties": {"error": _TEXT, **_FIELDS}},
    "/v1": {"type": "object", "required": ["error"], "properties": {"error": _PROBLEM}},
}

_ANY = {
    400: "The request is not HTTP/1.1, or has too many parts",
    408: "The headers, or the body, did not arrive in time",
    431: "The headers are too large",
    500: "The server failed",
    503: "The server is shutting down, or has too many connections",
}
_KEY = {401: "No valid API key, where keys are required"}
_NAMED = {404: "There is no such model"}
_BODY = {
    **_NAMED,
    413: "The body is too large, or has too many parts",
    415: "The body is of another type or encoding",
    422: "The request, or an image, is not valid",
    429: "The queue is full, or too long for the goal or the deadline; with Retry-After",
    504: "The deadline passed",
}
_EMPTY = ("/ready", "/load")
"""Ends of paths whose good answer, and that of a readiness, has no content; so has that of every check of health."""


def describe(app: FastAPI, infer: InferRoute) -> None:
    """Complete the document of an application, to which ``infer`` does not belong."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        for path in infer.paths:
            document["paths"][path] = {"post": _infer(path)}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                _add_statuses(path, method, operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _infer(path: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {"schema": _TEXT}}
    return {
        "summary": "Run a model on images",
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}],
        "responses": {"200": {"description": "Output tensors, in JSON or as bytes after it", "content": content}},
        **body(oip.InferRequest),
    }


def _add_statuses(path: str, method: str, operation: dict[str, Any]) -> None:
    statuses = {**_ANY, **({} if path in OPEN else _KEY), **(_NAMED if "{name}" in path else {})}
    if "requestBody" in operation:
        statuses |= _BODY
    if path.endswith("/load"):
        statuses[403] = "No API keys are set, so that nobody may reload a model"
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's, of parameters; those of paths are always valid
    if path in HEALTH or path.endswith(_EMPTY):
        responses["200"].pop("content", None)
    schema = _PROBLEMS["/v2" if path.startswith("/v2") else "/v1"]
    for status, description in sorted(statuses.items()):
        found: dict[str, Any] = {"description": description}
        if not (status == 503 and (path in HEALTH or path.endswith("/ready"))):
            found["content"] = {"application/json": {"schema": schema}}
        responses.setdefault(str(status), found)
