"""naflex-deploy embed --for: write images as the server of a language model takes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from naflex_deploy import load
from naflex_deploy.cli.terminal import err, out, print_error, print_json
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.runtime.embedding.handover import Form, write_for
from naflex_deploy.runtime.results.handover import PIXELS_ALONE, Narrow
from naflex_deploy.runtime.results.result import Result

SERVERS = {"sglang": "SGLang", "vllm": "vLLM"}


def embed_for(
    form: Form,
    dtype: Narrow,
    bundle: Path,
    inputs: Sequence[Path],
    folder: Path | None,
    *,
    variant: str | None,
    settings: Sequence[str],
    force: bool,
    as_json: bool,
) -> None:
    """Encode images for a language model and write them to a folder.

    Raises:
        UsageError: No folder is named, or the bundle has no tokens for a language model.
        OutputError: The folder exists or cannot be written.
    """
    if folder is None:
        raise UsageError("--for writes a folder", hint=f"name it with -o, for example -o {form}")
    engine = load(bundle, variant=variant, settings=settings)
    done = write_for(engine, inputs, folder, form, dtype, force=force, on_rejected=_report)
    if as_json:
        rejected = [{"path": item.name, "frame": item.frame, "error": str(item.error)} for item in done.rejected]
        print_json(
            "embed",
            **{"for": form},
            images=done.frames,
            placeholders=done.placeholders,
            rejected=rejected,
            output=str(folder),
        )
    else:
        out.print(
            f"[bold green]wrote[/] {folder}: {done.frames} images of {done.placeholders:,} tokens for {SERVERS[form]}"
        )
    family = engine.manifest.model.family
    server, families = PIXELS_ALONE[form]
    if family in families:
        err.print(f"[yellow]warning:[/] {server} takes no tokens of {family}, only pixels")
    if done.rejected:
        sys.exit(ImageError.code)


def _report(result: Result) -> None:
    if result.error is not None:
        print_error(result.error)
