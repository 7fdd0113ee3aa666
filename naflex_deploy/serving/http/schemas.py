"""Schemas of request bodies that the routes parse themselves."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

_TEXT = {"type": "string"}


def body(model: type[BaseModel], *, files: str = "", instead_of: Collection[str] = ()) -> dict[str, Any]:
    """The description of a request body in JSON.

    Args:
        model: Its fields.
        files: The field of files, where the body may be a multipart form, too.
        instead_of: The fields that such a form does not have.
    """
    schema = _inlined(model.model_json_schema())
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if files:
        fields = {name: value for name, value in schema["properties"].items() if name not in instead_of}
        images = {"type": "array", "items": {**_TEXT, "format": "binary"}, "minItems": 1}
        form = {"type": "object", "required": [files], "properties": {files: images, **fields}}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema in which every reference is replaced by its definition."""
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolved(definitions[value["$ref"].rpartition("/")[2]])
            return {key: resolved(part) for key, part in value.items()}
        return [resolved(part) for part in value] if isinstance(value, list) else value

    result: dict[str, Any] = resolved(schema)
    return result
