"""Whether an output that is complete is the one that a run would write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.embedding.contents import read_once
from naflex_deploy.runtime.images.inputs import open_inputs
from naflex_deploy.runtime.results.key import Key, digest_of_inputs
from naflex_deploy.runtime.results.writers import find_format

HINT = "pass --force to embed everything again, or choose another output"

READERS = "a library that reads images or documents was installed or changed since"


def refuse_other(output: Path, key: Key, paths: Iterable[Path]) -> None:
    """Refuse to take a complete output for that of a run with this key and these inputs, unless it is.

    Raises:
        UsageError: It was made with something else, or of other inputs; names what differs.
    """
    try:
        before = json.loads(find_format(output).read_key(output) or "null")
    except Exception as error:  # the readers of the formats raise many kinds
        raise UsageError(f"{output} is damaged: {type(error).__name__}: {error}", hint=HINT) from None
    if not isinstance(before, dict):
        raise UsageError(f"{output} exists, and does not say what it was made with", hint=HINT)
    now = key.digests()
    differ = [name for name in now if before.get(name) != now[name]]
    if not differ:
        inputs = ((item.name, read_once(item).digest) for item in open_inputs(paths))
        differ = ["inputs"] * (before.get("inputs") != digest_of_inputs(inputs))
    if differ:
        hint = f"{READERS}; {HINT}" if "readers" in differ else HINT
        raise UsageError(f"{output} is complete, but was made with something else: {', '.join(differ)}", hint=hint)
