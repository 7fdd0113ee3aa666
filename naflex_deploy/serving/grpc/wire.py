"""Bound what decoding a message costs, before it is decoded.

protobuf makes an object of every nested message and keeps eight bytes of every packed number, so that a few megabytes
can become gigabytes. Here fields are counted along the wire format.
"""

from __future__ import annotations

from naflex_deploy.core.protobuf import EIGHT, FOUR, LENGTH, VARINT, varint
from naflex_deploy.serving.http.problems import Problem

FIELDS = 4096
"""Fields of a message, those of nested messages included."""

NUMBERS = 1 << 19
"""Bytes of one list of numbers."""

Nested = dict[int, "Nested"]
"""Fields that hold messages, by their numbers, and which of their fields do."""

_PARAMETERS: Nested = {2: {}}
INFER: Nested = {4: _PARAMETERS, 5: {4: _PARAMETERS, 5: {}}, 6: {2: _PARAMETERS}}
"""Those of a ``ModelInferRequest``: its parameters, inputs with their contents, and outputs."""

_LISTS = {(5,): {3}, (5, 5): set(range(1, 8))}
"""Fields with lists of numbers, by the fields that they are in: shapes, and contents that are no bytes."""


def check_message(content: bytes, nested: Nested = INFER) -> None:
    """Check what decoding a message would cost.

    Raises:
        Problem: It has too many fields, or is no message.
    """
    try:
        _count(content, 0, len(content), nested, (), FIELDS)
    except (IndexError, ValueError):
        raise Problem(422, "bad_request", "the message is damaged") from None


def _count(content: bytes, at: int, end: int, nested: Nested, path: tuple[int, ...], left: int) -> int:
    """How many fields may follow those between two places.

    Raises:
        IndexError, ValueError: They do not end there.
    """
    while at < end:
        left -= 1
        if left < 0:
            raise Problem(422, "bad_request", f"expected a message of at most {FIELDS} fields, found more")
        tag, at = varint(content, at)
        kind, number = tag & 7, tag >> 3
        if kind == VARINT:
            _, at = varint(content, at)
        elif kind in (EIGHT, FOUR):
            at += 8 if kind == EIGHT else 4
        elif kind == LENGTH:
            size, at = varint(content, at)
            if at + size > end:
                raise IndexError
            if number in nested:
                left = _count(content, at, at + size, nested[number], (*path, number), left)
            elif size > NUMBERS and number in _LISTS.get(path, ()):
                what = f"expected at most {NUMBERS} bytes of numbers, found {size}"
                raise Problem(422, "bad_request", what, hint="send pixels in raw_input_contents")
            at += size
        else:
            raise IndexError
    if at > end:
        raise IndexError
    return left
