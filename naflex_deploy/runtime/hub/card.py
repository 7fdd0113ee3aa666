"""The model card of a bundle on the hub, written from its manifest."""

from __future__ import annotations

import json

from naflex_deploy.core.manifest import Manifest, Variant


def card(manifest: Manifest, repository: str, *, signed: bool) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        manifest: Of the bundle.
        repository: ``ORG/NAME`` that it is pushed to.
        signed: The bundle has a signature.
    """
    source = manifest.model.source
    base = source.removeprefix("hf:").partition("@")[0] if source.startswith("hf:") else ""
    front = {
        "library_name": "naflex-deploy",
        "pipeline_tag": "image-classification" if manifest.head else "image-feature-extraction",
        "tags": ["naflex", *sorted({variant.backend for variant in manifest.variants})],
        **({"base_model": base} if base else {}),
    }
    # JSON is YAML.
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    name = repository.partition("/")[2]
    outputs = ", ".join(f"`{spec.name}` {spec.shape}" for spec in manifest.outputs)
    rows = "\n".join(_row(variant) for variant in manifest.variants)
    signature = "\nThe bundle is signed: pass the public key as `public_key`.\n" if signed else ""
    return f"""---
{head}
---

# {name}

An image tower with native aspect ratios, built by naflex-deploy for packs of images of any size. Its weights are those
of `{source}`.

```python
import naflex_deploy as nd

engine = nd.load("hf:{repository}")
vectors = engine.embed(["page.png", "photo.jpg"])
```

| | |
|---|---|
| profile | {manifest.config.name} |
| parameters | {manifest.model.parameters:,} |
| patch | {manifest.preprocessing.patch_size} pixels |
| outputs | {outputs} |
| classes | {len(manifest.head.labels) if manifest.head else "none"} |
| text tower | {"yes" if manifest.text else "no"} |
| built by | {manifest.tool}, {manifest.created} |
| digest of the weights | `{manifest.model.digest}` |

Cosines are those of the engine's vectors with the float32 reference, on the golden packs of the bundle.

| variant | precision | target | budgets | least cosine | measured on |
|---|---|---|---|---|---|
{rows}
{signature}"""


def _row(variant: Variant) -> str:
    gate = variant.gate
    cosine = "not measured" if gate.min_cosine is None else f"{gate.min_cosine:.6f}"
    budgets = ", ".join(map(str, variant.budgets))
    where = gate.executed.cpu if gate.executed else ""
    return f"| `{variant.name}` | {variant.precision} | {variant.target} | {budgets} | {cosine} | {where} |"
