"""What decides an engine's vectors, which is their key, and what is written beside them of where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from naflex_deploy.core.config import ADJUSTABLE
from naflex_deploy.core.version import TOOL, __version__
from naflex_deploy.runtime.backends import executed_by
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.versions import pixel_versions
from naflex_deploy.runtime.results.key import Key, digest_of_inputs
from naflex_deploy.runtime.results.table import Provenance


def key_of(engine: Engine, tokens: Path | None) -> Key:
    """What decides the vectors of an engine, and where their tokens go."""
    manifest, variant = engine.manifest, engine.variant
    folder = f"{Path(variant.model).parent.as_posix()}/"
    shares = set(variant.shares)
    files = {name: entry.sha256 for name, entry in manifest.files.items() if name.startswith(folder) or name in shares}
    described = {"gate", "build", "versions", "passes"}  # of how the variant was made, which its files show
    return Key(
        {
            "model": manifest.model.digest,
            "engine": files,
            "variant": variant.model_dump(mode="json", exclude=described),
            "preprocessing": manifest.preprocessing.model_dump(mode="json"),
            "head": manifest.head.model_dump(mode="json") if manifest.head else None,
            **manifest.config.model_dump(mode="json", include=set(ADJUSTABLE)),
            "packing": manifest.config.packing.model_dump(mode="json")
            | {"max_images": manifest.config.max_images(variant.backend)},
            "tokens": str(tokens) if tokens else None,
            "naflex-deploy": __version__,
            "backend": executed_by(variant.backend).runtime,
            "readers": pixel_versions(),
        }
    )


def provenance(engine: Engine, key: Key, inputs: Iterable[tuple[str, str]]) -> Provenance:
    """What made the vectors of an engine, of inputs given by name and digest."""
    manifest = engine.manifest
    preparation = manifest.config.model_dump_json(include=set(ADJUSTABLE))
    digests = json.dumps(key.digests() | {"inputs": digest_of_inputs(inputs)}, separators=(",", ":"))
    return Provenance(manifest.model.digest, engine.variant.name, preparation, TOOL, digests)
