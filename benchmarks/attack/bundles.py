"""Damage a bundle: opening it is a BundleError, or does what the manifest says.

Bytes of its manifest are damaged; values in it are replaced, and it is sealed again; or the bytes of its graph are, and
the manifest names the new digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.manifest import FILE_NAME
from naflex_deploy.core.manifest.reading import sealed
from naflex_deploy.runtime.bundle.bundle import Bundle
from tests.support.bundles import write_summing_bundle
from tests.support.fuzzing.mutations import mutate

ODD = [
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        2**64,
        10**30,
        10**400,
        -0.5,
        1e308,
        "",
        " ",
        "..",
        "/",
        "../x",
        "a\0b",
        "\ud800",
    ),
    *("é" * 3000, "9" * 5000, [], [[]], [None], ["a"] * 5000, {}, {"": 0}, {"a": {"a": {"a": []}}}),
]


def damage_manifests(count: int, first: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Open so many damaged bundles.

    Returns:
        For each kind, how many were read and refused; and what must not happen.
    """
    outcomes: dict[str, Counter[str]] = {kind.__name__.strip("_"): Counter() for kind in _KINDS}
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_summing_bundle(Path(folder) / "sums")
        sound = (bundle / FILE_NAME).read_bytes()
        graph = bundle / json.loads(sound)["variants"][0]["model"]
        original = graph.read_bytes()
        for number in range(first, first + count):
            kind = _KINDS[number % len(_KINDS)]
            (bundle / FILE_NAME).write_bytes(sound)
            graph.write_bytes(original)
            kind(bundle, graph, number)
            try:
                found = Bundle.open(bundle)
                found.check(found.files_of(found.choose(None)))
                outcome = "read"
            except (IncompatibleError, UsageError):
                outcome = "refused"
            except Exception as error:
                outcome = "failure"
                failures.append(f"{number}: {type(error).__name__}: {error}")
            outcomes[kind.__name__.strip("_")][outcome] += 1
    return outcomes, failures


def _bytes(bundle: Path, graph: Path, number: int) -> None:
    path = bundle / FILE_NAME
    sound = path.read_bytes()
    path.write_bytes(mutate(sound, sound[random.Random(number).randrange(len(sound)) :], number))


def _values(bundle: Path, graph: Path, number: int) -> None:
    rng = random.Random(number)
    path = bundle / FILE_NAME
    content = json.loads(path.read_bytes())
    for _ in range(rng.randint(1, 2)):
        at: Any = content
        while True:
            keys = list(at) if isinstance(at, dict) else range(len(at))
            key = rng.choice(list(keys))
            if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.15:
                break
            at = at[key]
        if rng.random() < 0.15:
            del at[key]
        else:
            at[key] = deepcopy(rng.choice([*ODD, content[rng.choice(list(content))], at]))
        if not at:
            break
    with contextlib.suppress(ValueError):  # what cannot be sealed is written as it is
        content = sealed(content)
    path.write_text(json.dumps(content))


def _graph(bundle: Path, graph: Path, number: int) -> None:
    sound = graph.read_bytes()
    damaged = mutate(sound, sound[random.Random(number).randrange(len(sound)) :], number)
    graph.write_bytes(damaged)
    path = bundle / FILE_NAME
    content = json.loads(path.read_bytes())
    entry = content["files"][str(graph.relative_to(bundle))]
    entry["sha256"], entry["size"] = hashlib.sha256(damaged).hexdigest(), len(damaged)
    path.write_text(json.dumps(sealed(content)))


_KINDS: tuple[Callable[[Path, Path, int], None], ...] = (_bytes, _values, _graph)
