"""Damage the manifest of a bundle: loading it is a BundleError, or does what the manifest says."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.manifest import FILE_NAME
from naflex_deploy.runtime.bundle.bundle import Bundle
from tests.support.bundles import write_summing_bundle
from tests.support.fuzzing.mutations import mutate


def damage_manifests(count: int, first: int) -> tuple[dict[str, int], list[str]]:
    """Open so many bundles of damaged manifests.

    Returns:
        How many were read and refused, and what must not happen.
    """
    outcomes, failures = {"read": 0, "refused": 0}, []
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_summing_bundle(Path(folder) / "sums")
        sound = (bundle / FILE_NAME).read_bytes()
        for number in range(first, first + count):
            (bundle / FILE_NAME).write_bytes(
                mutate(sound, sound[random.Random(number).randrange(len(sound)) :], number)
            )
            try:
                found = Bundle.open(bundle)
                found.check(found.files_of(found.choose(None)))
                outcomes["read"] += 1
            except (IncompatibleError, UsageError):
                outcomes["refused"] += 1
            except Exception as error:
                failures.append(f"{number}: {type(error).__name__}: {error}")
    return outcomes, failures
