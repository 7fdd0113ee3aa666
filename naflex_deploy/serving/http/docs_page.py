"""The page at /docs: every route, its body and its answers, written from the OpenAPI document. It loads nothing."""

from __future__ import annotations

from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
color-scheme: light dark }
code { font-family: ui-monospace, monospace; font-size: .92em } h2 { margin-top: 2.5rem; font-size: 1.1rem }
table { border-collapse: collapse; width: 100% } td { border-top: 1px solid #8884; padding: .3rem .6rem .3rem 0;
vertical-align: top } .method { color: #1769aa; text-transform: uppercase } summary { cursor: pointer }
"""


def page(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    routes = "".join(
        _route(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title}</h1>'
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the page</a>.</p>'
        f"{routes}</html>"
    )


def _route(path: str, method: str, operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    bodies = "".join(_body(kind, entry["schema"]) for kind, entry in content.items())
    answers = "".join(
        f"<tr><td><code>{escape(status)}</code><td>{escape(answer.get('description', ''))}"
        for status, answer in sorted(operation["responses"].items())
    )
    return (
        f'<h2><span class="method">{method}</span> <code>{escape(path)}</code></h2>'
        f"<p>{escape(operation.get('summary', ''))}</p>{bodies}"
        f"<details><summary>Answers</summary><table>{answers}</table></details>"
    )


def _body(kind: str, schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(_type(field))}<td>{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<details><summary>Body, <code>{escape(kind)}</code></summary><table>{rows}</table></details>"


def _type(schema: dict[str, Any]) -> str:
    """The type of a field in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(map(repr, schema.get("enum", [schema.get("const")])))
    kind = str(schema.get("type", "any value"))
    return f"list of {_type(schema['items'])}" if kind == "array" and "items" in schema else kind
