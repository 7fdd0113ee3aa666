"""The wire format of protobuf, as far as messages are looked through without being decoded.

Format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5
"""Kinds of fields: a number, eight bytes, bytes behind their length, four bytes. No other kind is in use."""


def varint(content: bytes | memoryview, place: int) -> tuple[int, int]:
    """A number of at most 70 bits, and the place behind it.

    Raises:
        IndexError: The content ends before the number does.
        ValueError: The number is longer.
    """
    found = shift = 0
    while shift < 70:
        byte = content[place]
        place += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place
        shift += 7
    raise ValueError("a number of more than 64 bits")
