"""The JSON Schema of profiles, for editors of TOML."""

from __future__ import annotations

from typing import Any

from naflex_deploy.core.profile import Profile


def profile_schema() -> dict[str, Any]:
    """The schema of a file, in draft 2020-12: every key is optional where ``extends`` names a profile that has it."""
    found = Profile.model_json_schema(by_alias=True)
    required = found.pop("required", [])
    extends = {"type": "string", "description": "Name or path of the profile that this one starts from."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "properties": {"extends": extends} | found["properties"],
        "anyOf": [{"required": ["extends"]}, {"required": required}],
    }
