"""The images of a JSON request, in the shapes that clients of several servers send.

input      one image or several: base64, a data: URL, {"image": …} as for Jina, {"type": "image_url", …} as for OpenAI
images     as for Cohere
messages   as for vLLM: a conversation that holds one image
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving import json_bounds

NO_TEXT = "texts are not embedded by this server, only images"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Url(Body):
    """The URL of an image."""

    url: str
    """A `data:` URL; others are not fetched."""
    detail: str = ""
    """Accepted for compatibility, but not used."""


class UrlPart(Body):
    """An image, as OpenAI and vLLM have it."""

    type: Literal["image_url"]
    image_url: Url | str


class TextPart(Body):
    """A text, which is refused by name."""

    type: Literal["text"]
    text: str


class ImageObject(Body):
    """An image, as Jina has it."""

    image: str
    """base64 or a `data:` URL."""


class TextObject(Body):
    """A text, which is refused by name."""

    text: str


class Message(Body):
    """A turn of a conversation."""

    role: str = "user"
    content: list[UrlPart | TextPart]


Item = str | ImageObject | TextObject | UrlPart | TextPart


class Images(Body):
    """Images in one of three shapes."""

    input: Item | Annotated[list[Item], Field(fail_fast=True)] | None = None
    """One image or several, each in base64, as a `data:` URL, or as an object. Other URLs are not fetched."""
    images: Annotated[list[str], Field(fail_fast=True)] | None = None
    """Images in base64 or as `data:` URLs, instead of `input`."""
    messages: list[Message] | None = None
    """A conversation that holds one image, instead of `input`."""

    def sent(self) -> list[tuple[str, str]]:
        """Each image as it was sent, with the place where it stands in the request.

        Raises:
            Problem: There is a text, or more than one shape, or a conversation does not hold one image.
        """
        given = [name for name in ("input", "images", "messages") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"`{name}`" for name in given) or "none of them"
            expected = "expected one of `input`, `images` and `messages`"
            raise Problem(422, "bad_request", f"{expected}, found {found}", param=given[-1] if given else "input")
        if self.messages is not None:
            return _of_messages(self.messages)
        if self.images is not None:
            return [(f"images[{index}]", image) for index, image in enumerate(self.images)]
        items = self.input if isinstance(self.input, list) else [self.input]
        return [
            (f"input[{index}]", _of(item, f"input[{index}]")) for index, item in enumerate(items) if item is not None
        ]


def _of_messages(messages: list[Message]) -> list[tuple[str, str]]:
    found = [
        (place := f"messages[{turn}].content[{index}]", _of(part, place))
        for turn, message in enumerate(messages)
        for index, part in enumerate(message.content)
    ]
    if len(found) != 1:
        what = f"expected one image in `messages`, found {len(found)}"
        raise Problem(422, "bad_request", what, hint="send several images as `input`", param="messages")
    return found


def _of(item: Item, place: str) -> str:
    match item:
        case str():
            return item
        case ImageObject():
            return item.image
        case UrlPart():
            return item.image_url if isinstance(item.image_url, str) else item.image_url.url
    raise Problem(422, "bad_request", NO_TEXT, hint="send an image in base64", param=place)


def decode(text: str, place: str) -> bytes:
    """The content of an image in base64, in any of its forms, or in a ``data:`` URL.

    Raises:
        Problem: It is neither.
    """
    if text[:8].lower().startswith(("http:", "https:", "file:")):
        raise Problem(422, "bad_request", "URLs are not fetched", hint="send the image in base64", param=place)
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise Problem(422, "bad_request", "expected data:TYPE;base64,…", param=place)
    try:
        return json_bounds.decode_base64(text)
    except ValueError:
        pass
    try:
        return json_bounds.decode_base64(_plain(text))
    except ValueError:
        hint = NO_TEXT if " " in text.strip() else ""
        raise Problem(422, "bad_request", "expected an image in base64", hint=hint, param=place) from None


def _plain(text: str) -> str:
    """base64 as RFC 4648, section 4 has it: no line breaks, not URL-safe, padded."""
    if not text.isascii():
        raise ValueError("not ASCII")
    plain = text.translate(_PLAIN)
    return plain if "=" in plain else plain + "=" * (-len(plain) % 4)


_PLAIN = str.maketrans({"-": "+", "_": "/", "\n": None, "\r": None, "\t": None})
