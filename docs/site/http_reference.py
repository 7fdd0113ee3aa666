"""The reference of the HTTP server, from the OpenAPI document that it serves."""

from __future__ import annotations

import json
from typing import Any

from starlette.testclient import TestClient

from docs.site.tables import code, table
from naflex_deploy.serving.http.app import create_app
from naflex_deploy.serving.http.models import Models, open_model

INTRODUCTION = """# HTTP

This page is generated from the OpenAPI document, which `naflex-deploy serve` also answers at `/openapi.json`:
[openapi.json](openapi.json). [Server](../serving.md) shows requests, and lists the errors that every route may answer
with.

"""

Json = dict[str, Any]


def document() -> Json:
    """What the server answers at ``/openapi.json``. It is the same for every model."""
    answer = TestClient(create_app(Models({}, open_model))).get("/openapi.json")
    answer.raise_for_status()
    found: Json = answer.json()
    return found


def text(document: Json) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def page(document: Json) -> str:
    """The page in Markdown: a section for each route."""
    definitions = document.get("components", {}).get("schemas", {})
    return INTRODUCTION + "".join(
        _section(f"{method.upper()} {path}", operation, definitions)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )


def _section(title: str, operation: Json, definitions: Json) -> str:
    parts = [f"## {title}\n\n{operation.get('summary', '')}.\n\n"]
    parameters = operation.get("parameters", [])
    parts.append(
        table(("Parameter", "In", "Type"), [(code(p["name"]), p["in"], _type(p["schema"])) for p in parameters])
    )
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body, `{media}`:\n\n{_fields(content['schema'], definitions)}")
    for content in operation["responses"]["200"].get("content", {}).values():
        if fields := _fields(content.get("schema", {}), definitions):
            parts.append(f"Answer:\n\n{fields}")
    return "".join(parts)


def _fields(schema: Json, definitions: Json) -> str:
    schema = _resolved(schema, definitions)
    required = schema.get("required", [])
    fields = schema.get("properties", {})
    found = table(
        ("Field", "Type", "Default", "Meaning"),
        [
            (
                code(name),
                _type(_resolved(field, definitions)),
                "required" if name in required else code(json.dumps(field["default"])) if "default" in field else "",
                field.get("description", ""),
            )
            for name, field in fields.items()
        ],
    )
    for name, field in fields.items():
        for part in (field.get("items", {}), *field.get("anyOf", [])):
            if inner := _fields(part, definitions):
                found += f"{'Each of ' if part is field.get('items') else ''}`{name}`:\n\n{inner}"
    return found


def _resolved(schema: Json, definitions: Json) -> Json:
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _type(schema: Json) -> str:
    """The type of a value, for a person: ``array of string or string``."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return "object"
    if "prefixItems" in schema:
        return f"array of {len(schema['prefixItems'])} {_type(schema['prefixItems'][0])}s"
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "file"
    return str(schema.get("type", "any"))
