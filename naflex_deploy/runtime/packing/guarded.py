"""Prepare inputs in another process where their readers have no limit of time or memory of their own.

PDFium draws nested objects for as long as they nest, pydicom inflates whole files, and Pillow counts frames by decoding
them. JPEG, PNG and WebP of the usual parts stay in this process, at full speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import LimitsSection
from naflex_deploy.core.worker import WorkerError, stream
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.media.dicom.reader import PYDICOM
from naflex_deploy.runtime.images.media.kinds import Kind, kind_of
from naflex_deploy.runtime.images.media.stills import is_still
from naflex_deploy.runtime.images.media.tame import is_tame
from naflex_deploy.runtime.images.source import content_of
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result

IN_MEMORY = 16 << 20
"""Bytes up to which a picture is read to see whether it is tame; a larger one is not."""


MODULES: dict[Kind, str] = {
    "PDF document": "pypdfium2",
    "DICOM file": PYDICOM,
    "volume": "nibabel",
    "video": "av",
}
"""What the reader of a kind imports that takes long, and that processes can be forked with."""


class SlowError(ImageError):
    """An input whose reader was ended, because its time was up."""


def decided(item: Input) -> Input:
    """An input of which it is decided what it is, and whether its reader takes a bounded time.

    A file that is a small picture comes out as its content; what is in memory as pixels is left as it is.
    """
    source = item.source
    try:
        if isinstance(source, str | Path):
            path = Path(source)
            kind = kind_of(path, item.name)
            if kind != "picture" or not path.is_file():
                return replace(item, kind=kind, tame=kind == "picture")
            if path.stat().st_size > IN_MEMORY:
                return replace(item, kind=kind)
            source = path.read_bytes()
        elif isinstance(source, bytearray | memoryview) or hasattr(source, "read"):
            source = content_of(source, item.name)
    except (ImageError, OSError):
        return replace(item, tame=True)  # reading it says what is wrong
    if isinstance(source, bytes):
        kind = kind_of(source, item.name)
        tame = kind == "picture" and (is_tame(source) or not is_still(source))
        return replace(item, source=source, kind=kind, tame=tame)
    return replace(item, tame=not isinstance(source, tuple))


def guarded(
    prepare: Callable[..., Iterator[list[Prepared]]],
    index: int,
    item: Input,
    limits: LimitsSection,
    *arguments: Any,
    nice: int = 0,
) -> Iterator[list[Prepared]]:
    """The frames of an input, prepared in another process. Where that has to be ended, the last one is an error.

    Args:
        prepare: Called there with ``index``, ``item`` and ``arguments``.
        index: Number of the input.
        item: The input.
        limits: Of the profile.
        nice: By how much the priority of the process is lower.
    """
    number = 0
    modules = (MODULES[item.kind],) if item.kind in MODULES else ()
    found = stream(
        prepare, index, item, *arguments, seconds=limits.seconds, memory=limits.memory, nice=nice, modules=modules
    )
    try:
        for images in found:
            yield images
            number = images[0].result.frame + 1
    except TimeoutError:
        what, setting = f"took more than {limits.seconds:g} s", "limits.seconds"
        error: ImageError = SlowError(f"{item.name}: reading it {what}", hint=_hint(setting))
    except WorkerError as failure:
        what = f"{failure}, as it crashed or needed more than {limits.memory} bytes of memory"
        error = ImageError(f"{item.name}: while reading it, {what}", hint=_hint("limits.memory"))
    else:
        return
    yield [Prepared(Result(index, number, item.name, last=True, error=error))]


def _hint(setting: str) -> str:
    return f"leave it out, or raise {setting} in the profile if its source is trusted"
