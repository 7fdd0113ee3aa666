"""Bound what parsing a JSON body costs, before it is parsed.

A parser makes an object of every value, and holds Python's global lock meanwhile, so that the server answers nothing
else. Here the bytes are scanned in pieces, and no objects are made: how many values, arrays, objects and keys there are
outside of texts, and how long the numbers are.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from naflex_deploy.serving.http.problems import Problem

SMALL = 16 << 10
"""Bytes below which any JSON is cheap, and is not scanned."""

MOST = {b",": (1 << 18, "values"), b"[": (1 << 13, "arrays"), b"{": (1 << 10, "objects"), b":": (1 << 12, "keys")}
"""The mark that counts a thing outside of texts, and how many of these there may be.

The most of each is parsed in less than 50 ms on one core.
"""

OUTSIDE = 4 << 20
"""Bytes outside of texts."""

TEXTS = 16
"""Texts of an image, keys included, and four times as many of the request: each one is an object, too."""

DIGITS = 40
"""Digits in a row, twice as many where a piece ends: the time to parse an integer grows with their square."""

ESCAPES = 1 << 20
"""Backslashes."""

FOREIGN = 4 << 20
"""Bytes of JSON that is not all ASCII; images in base64 are."""

_BASE64 = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
_PIECE = 64 << 10
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)

M = TypeVar("M", bound=BaseModel)


def parse_json(kind: type[M], body: bytes | bytearray, items: int) -> M:
    """Check the cost of a JSON body, and parse it.

    Args:
        kind: What it describes.
        body: The JSON.
        items: Maximum number of images.

    Raises:
        Problem: Parsing it would cost too much.
        ValidationError: It is no JSON, or not as ``kind`` describes it.
    """
    if len(body) > SMALL:
        check_json(body, items)
    return kind.model_validate_json(body)


def check_json(body: bytes | bytearray, items: int) -> None:
    """Check what parsing a JSON body would cost. It need not be valid.

    Args:
        body: The JSON.
        items: Maximum number of images.

    Raises:
        Problem: It has more of something than is allowed.
    """
    escapes, first = 0, body.find(b"\\")  # images in base64 have none, and looking is faster than counting
    for at in range(first, len(body), _PIECE) if first >= 0 else ():
        escapes += body.count(b"\\", at, at + _PIECE)
        _check(escapes, ESCAPES, "backslashes")
    if not body.isascii():
        _check(len(body), FOREIGN, "bytes, as not all of them are ASCII,")
    counts = dict.fromkeys(MOST, 0)
    between, outside, texts, at = bytearray(), 0, 0, 0
    while at < len(body):
        quote = body.find(b'"', at)
        end = len(body) if quote < 0 else quote
        outside += end - at
        _check(outside, OUTSIDE, "bytes outside of texts")
        between += body[at:end]
        if quote < 0:
            at = end
        else:
            at, texts = _end_of_text(body, quote + 1), texts + 1
            if texts > TEXTS * (items + 4):
                raise _too_large(f"at most {TEXTS * (items + 4)} texts", hint=f"send at most {items} images at once")
        if len(between) >= _PIECE or at == len(body):
            for piece in pieces(between):
                _count(piece, counts)
            between.clear()


def _count(piece: bytes, counts: dict[bytes, int]) -> None:
    for mark, (most, what) in MOST.items():
        counts[mark] += piece.count(mark)
        _check(counts[mark], most, what)
    if b"0" * (DIGITS + 1) in piece.translate(_ZEROS):
        raise _too_large(f"numbers of at most {DIGITS} digits")


def decode_base64(text: str) -> bytes:
    """The bytes that a base64 text stands for, decoded in pieces, between which other threads may run.

    Raises:
        ValueError: It is empty or not base64: ``binascii.Error`` for what is wrong in ASCII.
    """
    step = 4 * _PIECE
    if not text or len(text) % 4:  # decoders take a padding character behind whole groups, or none at all
        raise ValueError("expected groups of four characters")
    if "-" in text or "_" in text:  # pydantic takes these, too
        raise ValueError("expected base64 that is not URL-safe")
    if len(text) <= step:
        return _decoded(text)
    head = (len(text) - 1) // step * step
    parts = [_decoded(text[at : at + step]) for at in range(0, head, step)]
    if any(len(part) != 3 * _PIECE for part in parts):
        raise ValueError("padding inside of the text")
    return b"".join([*parts, _decoded(text[head:])])


def _decoded(text: str) -> bytes:
    """A piece, by pydantic, which takes a sixth of the time that Python does but refuses bits that are left over."""
    try:
        return _BASE64.validate_strings(text)
    except ValidationError:
        return base64.b64decode(text, validate=True)


def pieces(content: bytes | bytearray) -> Iterator[bytes]:
    """Small enough that work on one of them keeps no other thread waiting."""
    whole = memoryview(content)
    return (bytes(whole[at : at + _PIECE]) for at in range(0, len(content), _PIECE))


def _end_of_text(body: bytes | bytearray, at: int) -> int:
    """The place after the quote that ends a text, which begins at ``at``."""
    while (quote := body.find(b'"', at)) >= 0:
        slashes = quote
        while slashes > at and body[slashes - 1] == 0x5C:
            slashes -= 1
        at = quote + 1
        if (quote - slashes) % 2 == 0:
            return at
    return len(body)


def _check(found: int, most: int, what: str) -> None:
    if found > most:
        raise _too_large(f"at most {most} {what}")


def _too_large(
    expected: str, hint: str = "send images as files in base64, or pixels as bytes after the JSON"
) -> Problem:
    return Problem(413, "body_too_large", f"expected JSON with {expected}, found more", hint=hint)
