"""The inputs of a JSON request, in the shapes that clients of several servers send.

input      one or several: base64, a data: URL or a text; {"image": …} or {"text": …} as for Jina;
           {"type": "image_url", …} or {"type": "text", …} as for OpenAI
images     as for Cohere, and texts likewise
messages   as for vLLM: a conversation that holds one image or one text
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving import json_bounds
from naflex_deploy.serving.http.v1.items import Item

LONGEST_TEXT = 1 << 16
"""Characters of a text. Text towers read some dozens of tokens, and a tokenizer takes time for the rest too."""

_BASE64 = re.compile(r"\s*(data:|[A-Za-z0-9+/_-]{48})", re.IGNORECASE)
"""How an image in a text begins: no word has so many letters without a space, and no image has fewer."""

Kind = Literal["image", "text"]


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
    """A text, as OpenAI and vLLM have it."""

    type: Literal["text"]
    text: str


class ImageObject(Body):
    """An image or a document, as Jina has an image."""

    image: str
    """base64 or a `data:` URL."""
    page: int | None = None
    """The only page of a document to embed, from 1. Default: all of them."""


class TextObject(Body):
    """A text, as Jina has it."""

    text: str


class Message(Body):
    """A turn of a conversation."""

    role: str = "user"
    content: str | list[UrlPart | TextPart]


Given = str | ImageObject | TextObject | UrlPart | TextPart


class Inputs(Body):
    """Images, documents and texts in one of several shapes."""

    input: Given | Annotated[list[Given], Field(fail_fast=True)] | None = None
    """One image or text, or several. A string is an image where it is a `data:` URL or base64, otherwise a text;
    `modality` decides for all. Other URLs are not fetched."""
    images: Annotated[list[str], Field(fail_fast=True)] | None = None
    """Images in base64 or as `data:` URLs, instead of `input`."""
    texts: Annotated[list[str], Field(fail_fast=True)] | None = None
    """Texts, instead of `input`."""
    messages: list[Message] | None = None
    """A conversation that holds one image or one text, instead of `input`."""

    def items(self, kind: Kind | None, check: Callable[[int], None]) -> list[Item]:
        """The inputs, images decoded from base64.

        Args:
            kind: What the strings of ``input`` are; ``None`` where each shows it.
            check: Called with their number before any is decoded.

        Raises:
            Problem: There is more than one shape, a conversation holds more than one input, or an image is no base64.
        """
        given = [name for name in ("input", "images", "texts", "messages") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"`{name}`" for name in given) or "none of them"
            expected = "expected one of `input`, `images`, `texts` and `messages`"
            raise Problem(422, "bad_request", f"{expected}, found {found}", param=given[-1] if given else "input")
        if self.messages is not None:
            return [_of_messages(self.messages)]
        if self.images is not None:
            check(len(self.images))
            return [_image(index, f"images[{index}]", image) for index, image in enumerate(self.images)]
        if self.texts is not None:
            check(len(self.texts))
            return [_text(index, f"texts[{index}]", text) for index, text in enumerate(self.texts)]
        found_inputs = self.input if isinstance(self.input, list) else [self.input]
        check(len(found_inputs))
        return [
            _item(index, f"input[{index}]", value, kind)
            for index, value in enumerate(found_inputs)
            if value is not None
        ]


def _of_messages(messages: list[Message]) -> Item:
    found: list[tuple[str, str | UrlPart | TextPart]] = []
    for turn, message in enumerate(messages):
        if isinstance(message.content, str):
            found.append((f"messages[{turn}].content", message.content))
            continue
        found += [(f"messages[{turn}].content[{index}]", part) for index, part in enumerate(message.content)]
    if len(found) != 1:
        what = f"expected one image or one text in `messages`, found {len(found)}"
        hint = "an image and a text have a vector each: send them as `input`"
        raise Problem(422, "bad_request", what, hint=hint, param="messages")
    ((place, part),) = found
    return _item(0, place, part, "text")


def _item(index: int, place: str, given: Given, kind: Kind | None) -> Item:
    match given:
        case str():
            image = kind == "image" or (kind is None and looks_like_image(given))
            return _image(index, place, given) if image else _text(index, place, given, plain=kind is None)
        case ImageObject():
            return _image(index, place, given.image, given.page)
        case TextObject():
            return _text(index, place, given.text)
        case UrlPart() | TextPart():
            return of_part(index, place, given)


def of_part(index: int, place: str, part: UrlPart | TextPart) -> Item:
    """An input that says what it is.

    Raises:
        Problem: It is an image that is not in base64, or a text that is too long.
    """
    if isinstance(part, TextPart):
        return _text(index, place, part.text)
    return _image(index, place, part.image_url if isinstance(part.image_url, str) else part.image_url.url)


def looks_like_image(text: str) -> bool:
    """Whether a text is meant as an image: a ``data:`` URL, base64, or a URL, which is refused by name."""
    return _BASE64.match(text) is not None or text[:8].lower().startswith(("http:", "https:", "file:"))


def _image(index: int, place: str, text: str, page: int | None = None) -> Item:
    if page is not None and page < 1:
        what = f"expected a page from 1 on, found {page}"
        raise Problem(422, "bad_request", what, hint="leave `page` out to get all pages", param=place)
    return Item(index, place, decode(text, place), page)


def _text(index: int, place: str, text: str, *, plain: bool = False) -> Item:
    if len(text) > LONGEST_TEXT:
        what = f"expected a text of at most {LONGEST_TEXT} characters, found {len(text)}"
        raise Problem(422, "bad_request", what, hint="text towers read some dozens of words: shorten it", param=place)
    return Item(index, place, text, plain=plain)


def images_only(items: Sequence[Item], why: str) -> list[Item]:
    """The inputs for a model that embeds no texts, where a string can only be an image.

    Args:
        items: The inputs.
        why: It embeds none.

    Raises:
        Problem: There is a text, or a string is no base64.
    """
    found = []
    for item in items:
        if not isinstance(item.content, str):
            found.append(item)
        elif item.plain:
            found.append(replace(item, content=decode(item.content, item.place, why)))
        else:
            what = f"expected an image, found a text: {why}"
            raise Problem(422, "bad_request", what, hint="see GET /info for what a model embeds", param=item.place)
    return found


def decode(text: str, place: str, no_texts: str = "") -> bytes:
    """The content of an image in base64, in any of its forms, or in a ``data:`` URL.

    Args:
        text: The base64 or URL.
        place: Where it stands in the request.
        no_texts: Why texts are not embedded, for what looks like one.

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
        hint = no_texts if " " in text.strip() else ""
        raise Problem(422, "bad_request", "expected an image in base64", hint=hint, param=place) from None


def _plain(text: str) -> str:
    """base64 as RFC 4648, section 4 has it: no line breaks, not URL-safe, padded."""
    if not text.isascii():
        raise ValueError("not ASCII")
    plain = text.translate(_PLAIN)
    return plain if "=" in plain else plain + "=" * (-len(plain) % 4)


_PLAIN = str.maketrans({"-": "+", "_": "/", "\n": None, "\r": None, "\t": None})
