"""Which pictures take a time that their size in pixels bounds, so that a thread may decode them.

These are JPEG, PNG and WebP of the parts that cameras and programs write. A JPEG of thousands of scans, a PNG of a
million chunks and every other format can keep their reader busy for as long as they like.
"""

from __future__ import annotations

from typing import Literal

SCANS = 24
"""Of a JPEG: progressive ones have about ten, each of which passes over all pixels."""

PARTS = 4096
"""Segments before the first scan of a JPEG, and chunks of a PNG."""


def is_tame(content: bytes) -> bool:
    """Whether the size of a picture bounds the time that decoding it takes."""
    if content.startswith(b"\xff\xd8\xff"):
        return _scans_once(content) or (_segments_end(content) and content.count(b"\xff\xda") <= SCANS)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _chunks_end(content)
    return content.startswith(b"RIFF") and content[8:12] == b"WEBP"


def _scans_once(content: bytes) -> bool:
    """Whether the first scan of a sequential JPEG has all its components, after which decoders take no other.

    Most photos are so, and need not be searched for further scans.
    """
    at, components = 2, 0
    for _ in range(PARTS):
        mark, size = content[at : at + 2], int.from_bytes(content[at + 2 : at + 4], "big")
        if mark == b"\xff\xda":
            return 0 < components == int.from_bytes(content[at + 4 : at + 5], "big")
        if mark in (b"\xff\xc0", b"\xff\xc1"):
            components = int.from_bytes(content[at + 9 : at + 10], "big")
        elif len(mark) < 2 or mark[0] != 0xFF or not 0xC4 <= mark[1] <= 0xFE or 0xD0 <= mark[1] <= 0xD8 or size < 2:
            return False  # progressive, or a marker that is not expected here
        at += 2 + size
    return False


def _segments_end(content: bytes) -> bool:
    """Whether the first scan comes after few segments (ITU T.81, B.1.1.4)."""
    at = 2
    for _ in range(PARTS):
        mark = content[at : at + 2]
        if len(mark) < 2 or mark[0] != 0xFF or mark[1] == 0xDA:
            return True
        if mark[1] == 0xFF:  # fills up
            at += 1
        elif mark[1] == 0x01 or 0xD0 <= mark[1] <= 0xD8:  # has no length
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
    return False


def _chunks_end(content: bytes) -> bool:
    """Whether there are few chunks (PNG 3, 5.3)."""
    at = 8
    for _ in range(PARTS):
        if at + 8 > len(content) or content[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return False


def pixels_of(content: bytes) -> int:
    """Width times height of a tame picture, as its header states it; 0 where it does not."""
    if content.startswith(b"\x89PNG"):
        return _number(content, 16, 4) * _number(content, 20, 4)
    if content.startswith(b"RIFF"):
        match content[12:16]:
            case b"VP8X":
                return (1 + _number(content, 24, 3, "little")) * (1 + _number(content, 27, 3, "little"))
            case b"VP8L":
                sides = _number(content, 21, 4, "little")
                return (1 + (sides & 0x3FFF)) * (1 + (sides >> 14 & 0x3FFF))
        return (_number(content, 26, 2, "little") & 0x3FFF) * (_number(content, 28, 2, "little") & 0x3FFF)
    at = 2
    for _ in range(PARTS):
        mark = content[at : at + 2]
        if len(mark) < 2 or mark[0] != 0xFF or mark[1] == 0xDA:
            break
        if 0xC0 <= mark[1] <= 0xCF and mark[1] not in (0xC4, 0xC8, 0xCC):  # a frame header (ITU T.81, B.2.2)
            return _number(content, at + 5, 2) * _number(content, at + 7, 2)
        at += 1 if mark[1] == 0xFF else 2 + max(2, _number(content, at + 2, 2))
    return 0


def _number(content: bytes, at: int, size: int, order: Literal["big", "little"] = "big") -> int:
    return int.from_bytes(content[at : at + size], order)
