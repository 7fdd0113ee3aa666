"""Encode images for a language model, and write them as servers of language models take them.

from naflex_deploy.runtime.embedding.handover import encode_for_language_model
for image in encode_for_language_model(engine, ["page.png"]):
    image.features()
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.files import new_directory
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import as_list, expand, open_inputs
from naflex_deploy.runtime.packing.pack_stream import Images
from naflex_deploy.runtime.results.handover import DEEPSTACK, VLM, ImageTokens, Narrow, for_sglang, for_vllm
from naflex_deploy.runtime.results.result import Result, by_frame

Form = Literal["sglang", "vllm"]

INDEX = "index.jsonl"


@dataclass
class Handover:
    """What a run wrote.

    Attributes:
        frames: Frames written, each to a file.
        placeholders: Tokens of all of them.
        rejected: Frames that could not be encoded, each with its error.
    """

    frames: int = 0
    placeholders: int = 0
    rejected: list[Result] = field(default_factory=list)


def outputs_of(engine: Engine) -> tuple[str, ...]:
    """The outputs of an engine that a language model takes.

    Raises:
        UsageError: The bundle lacks one of them.
    """
    found = [spec.name for spec in engine.variant.outputs]
    taps = (engine.manifest.model.architecture.get("projector") or {}).get("taps", ())
    expected = (VLM, *(f"{DEEPSTACK}{index}" for index in range(len(taps))))
    missing = [name for name in expected if name not in found]
    if missing:
        raise UsageError(
            f"the bundle lacks {' and '.join(map(repr, missing))}, which a language model needs; it has {found}",
            hint="build it from a whole vision-language model with --profile vlm",
        )
    return expected


def encode_for_language_model(engine: Engine, images: Images) -> list[ImageTokens]:
    """Encode images, packed together.

    Args:
        engine: Of a bundle that was built from a whole vision-language model.
        images: One image, or several; as for `Engine.embed`.

    Returns:
        The tokens of each frame, in order.

    Raises:
        UsageError: The bundle has no tokens for a language model.
        ImageError: An input is not an image.
    """
    sources, _ = as_list(images)
    frames = {(frame[0].input, frame[0].frame): frame for frame in by_frame(engine.stream(sources, outputs_of(engine)))}
    return [ImageTokens.of(frames[key]) for key in sorted(frames)]


def write_for(
    engine: Engine,
    inputs: Sequence[Path],
    folder: Path,
    form: Form,
    dtype: Narrow = "float16",
    *,
    force: bool = False,
    on_rejected: Callable[[Result], None] = lambda result: None,
) -> Handover:
    """Encode files, and write a folder with a file for each frame and an index of them.

    A file for vLLM is the part of a chat message that gives the image, in JSON; one for SGLang is an ``.npz`` with the
    fields of an item of ``image_data``. A line of ``index.jsonl`` gives the input, the frame, its file, the number of
    placeholders, the type of its tokens, and the grids of its parts.

    Args:
        engine: Of a bundle that was built from a whole vision-language model.
        inputs: What `expand` takes.
        folder: Appears once everything in it is written.
        force: Replace a folder that is there.
        on_rejected: Called with each frame that cannot be encoded; the others are written.

    Raises:
        UsageError: The bundle has no tokens for a language model, or an input does not exist.
        OutputError: The folder exists or cannot be written.
    """
    outputs, paths = outputs_of(engine), list(dict.fromkeys(expand(inputs)))
    done = Handover()
    lines: dict[tuple[int, int], str] = {}
    with new_directory(folder, force=force) as partial:
        for frame in by_frame(engine.stream(open_inputs(paths), outputs)):
            whole = frame[0]
            try:
                tokens = ImageTokens.of(frame)
                name = _write(tokens, partial / f"{whole.input:06}-{whole.frame:05}", form, dtype)
            except NaflexError as error:
                done.rejected.append(_with(whole, error))
                on_rejected(done.rejected[-1])
                continue
            done.frames += 1
            done.placeholders += tokens.placeholders
            line = {"path": whole.name, "frame": whole.frame, "file": name, "placeholders": tokens.placeholders}
            line |= {"dtype": dtype}
            lines[whole.input, whole.frame] = json.dumps({**line, "grid_thw": tokens.grid_thw.tolist()})
        (partial / INDEX).write_text("".join(f"{lines[key]}\n" for key in sorted(lines)), encoding="utf-8")
    return done


def _write(tokens: ImageTokens, path: Path, form: Form, dtype: Narrow) -> str:
    if form == "vllm":
        file = path.with_suffix(".json")
        file.write_text(json.dumps(for_vllm(tokens, dtype)), encoding="ascii")
    else:
        file = path.with_suffix(".npz")
        np.savez(file, allow_pickle=False, **for_sglang(tokens, dtype))
    return file.name


def _with(result: Result, error: NaflexError) -> Result:
    return Result(result.input, result.frame, result.name, error=error)
