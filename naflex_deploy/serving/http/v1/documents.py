"""The pages of a PDF document or a TIFF file, prepared as images."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.looking import pixels_of
from naflex_deploy.runtime.images.source import describe
from naflex_deploy.runtime.packing.guarded import SlowError, decided
from naflex_deploy.runtime.scheduling.queue import DeadlineError
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.models import Frame, Model, sound
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.v1.items import Item


@dataclass(frozen=True, eq=False)
class Page:
    """A page that is ready to run.

    Attributes:
        number: From 1.
        frame: Its image, and its tiles.
        preview: What the model sees of it as a whole: a ``data:`` URL of a JPEG file; ``None`` where nobody asked.
    """

    number: int
    frame: Frame
    preview: str | None


def read_pages(model: Model, item: Item, limits: Limits, deadline: float, preview: bool = False) -> list[Page]:
    """Each page, or the only one that is asked for.

    They are read in a process that can be ended, so that this takes no longer than the deadline allows.

    Args:
        model: For which the pages are prepared.
        item: The document.
        limits: Of requests; a page is one of the images of which a request may have so many.
        deadline: Of the request, on the clock of `time.monotonic`.
        preview: Whether pages have previews.

    Raises:
        ImageError: The document, or a page, cannot be read.
        DeadlineError: Reading it was ended at the deadline.
        Problem: It has too many pages, or no such page.
    """
    content = item.content
    assert isinstance(content, bytes)
    if item.page is not None and item.page > model.manifest.config.limits.frames:
        raise _no_page(item.page)
    before = frozenset(range(0 if item.page is None else item.page - 1))
    source = decided(Input(describe(content), content, done=before))
    found: list[Page] = []
    try:
        for images in model.prepare.apart(source, deadline - time.monotonic(), limits.pixels):
            number = images[0].result.frame + 1
            if item.page is not None and number != item.page:
                break
            if len(found) == limits.items:
                what = f"expected a document of at most {limits.items} pages, found more"
                raise Problem(422, "too_many_items", what, hint="ask for its pages by `page`", param=item.place)
            frame = sound(images)
            limits.check_size(*images[0].result.size)
            found.append(Page(number, frame, _preview(model, frame) if preview else None))
            if item.page is not None:
                break
    except SlowError:
        if time.monotonic() < deadline:
            raise
        raise DeadlineError("the deadline passed while the document was read") from None
    if not found:
        raise _no_page(item.page or 1)
    return found


def _no_page(number: int) -> ImageError:
    return ImageError(f"the document has no page {number}", hint="pages are numbered from 1")


def _preview(model: Model, frame: Frame) -> str:
    stream = BytesIO()
    Image.fromarray(pixels_of(frame[0][1], model.manifest.preprocessing.patch_size)).save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
