"""The reference of profiles, from the schema that validates them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any, TypeGuard

from griffe import Docstring, DocstringSectionAttributes
from pydantic import BaseModel

from docs.site.tables import code, table
from naflex_deploy.core.profile import Profile

INTRODUCTION = """# Profile options

This page is generated from the schema that validates profiles. `naflex-deploy profiles NAME` prints a built-in profile
with every value. Values come from the defaults below, then from the profile, from `--config FILE`, from environment
variables such as `NAFLEX_DEPLOY_IMAGE__TOKENS=576`, and from `--set image.tokens=576`; the last one given is used.

"""


def page() -> str:
    """The page in Markdown: a section for each table of a profile."""
    return INTRODUCTION + "".join(_section(path, model) for path, model in sections())


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Dotted path and model of each table of a profile, its top level first, as ``""``."""
    yield from _below("", Profile)


def _below(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        if _is_table(field.annotation):
            yield from _below(f"{path}.{name}".lstrip("."), field.annotation)


def _is_table(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _section(path: str, model: type[BaseModel]) -> str:
    docstring = Docstring(inspect.cleandoc(model.__doc__ or ""), parser="google")
    parts = docstring.parse("google", warnings=False)
    summary = parts[0].value if parts and isinstance(parts[0].value, str) else ""
    meanings = {
        attribute.name: " ".join(attribute.description.split())
        for part in parts
        if isinstance(part, DocstringSectionAttributes)
        for attribute in part.value
    }
    schema = model.model_json_schema()
    rows = []
    for name, field in model.model_fields.items():
        if _is_table(field.annotation):
            continue
        key = field.alias or name
        values = allowed(schema["properties"][key], schema.get("$defs", {}))
        default = "required" if field.is_required() else _toml(field.default)
        rows.append((code(key), values, default, meanings.get(name, "").replace("``", "`")))
    heading = f"## [{path}]" if path else "## Top level"
    return f"{heading}\n\n{summary.replace('``', '`')}\n\n{table(('Key', 'Value', 'Default', 'Meaning'), rows)}"


def allowed(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a JSON schema allows, for a person: ``integer above 0 or "auto"``."""
    if "$ref" in schema:
        return allowed(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(allowed(one, definitions) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    if "minimum" in schema and schema["minimum"] == schema.get("maximum"):
        return code(json.dumps(schema["minimum"]))
    if "prefixItems" in schema:
        return (
            f"list of {len(schema['prefixItems'])}: {', '.join(allowed(i, definitions) for i in schema['prefixItems'])}"
        )
    if schema["type"] == "array":
        return f"list of: {allowed(schema['items'], definitions)}"
    if schema["type"] == "object":
        return f"table of: {allowed(schema['additionalProperties'], definitions)}"
    bounds = {
        "exclusiveMinimum": "above",
        "minimum": "from",
        "exclusiveMaximum": "below",
        "maximum": "to",
    }
    return " ".join(
        [schema["type"], *(f"{word} {schema[bound]:g}" for bound, word in bounds.items() if bound in schema)]
    )


def _toml(value: Any) -> str:
    return "not set" if value is None else code(json.dumps(value))
