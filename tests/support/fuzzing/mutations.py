"""Damage to files, drawn from a seed: the same number gives the same damage on every machine."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutate(content: bytes, other: bytes, number: int) -> bytes:
    """One to three damages, most of them near the beginning, where headers are; inside of most files that gzip packed.

    Args:
        content: Of a sound file.
        other: From which a part may be put into it.
        number: Of the mutant.
    """
    if content.startswith(b"\x1f\x8b") and number % 4:
        return gzip.compress(mutate(gzip.decompress(content), other, number), 1, mtime=0)
    rng = np.random.default_rng(number)
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        kind, place = int(rng.integers(7)), _place(rng, len(found))
        size = int(rng.choice([1, 2, 4, 8, 16, 64, 256]))
        if kind == 0:
            found[place : place + 1] = bytes([int(rng.integers(256))])
        elif kind == 1:
            for at in rng.integers(0, max(len(found), 1), size):
                found[at : at + 1] = bytes([int(rng.integers(256))])
        elif kind == 2:
            width = int(rng.choice([1, 2, 4]))
            value = int(rng.choice(EXTREMES)) & (256**width - 1)
            found[place : place + width] = value.to_bytes(width, ["little", "big"][int(rng.integers(2))])
        elif kind == 3:
            del found[place : place + size]
        elif kind == 4:
            found[place:place] = found[place : place + size]
        elif kind == 5:
            start = int(rng.integers(max(len(other), 1)))
            found[place : place + size] = other[start : start + size]
        else:
            del found[max(1, place) :]
    mutant = bytes(found)
    if mutant.startswith(b"\x89PNG") and rng.integers(2):
        return _with_checksums(mutant)
    return _with_tar_checksum(mutant) if mutant[257:262] == b"ustar" else mutant


def _place(rng: np.random.Generator, length: int) -> int:
    return int(length * rng.random() ** float(rng.choice([1, 3])))


def _with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have their right checksums, so that what is in them is looked at."""
    found, place = bytearray(content), 8
    while place + 12 <= len(found):
        (size,) = struct.unpack_from(">I", found, place)
        end = place + 8 + size
        if end + 4 > len(found):
            break
        struct.pack_into(">I", found, end, zlib.crc32(found[place + 4 : end]))
        place = end + 4
    return bytes(found)


def _with_tar_checksum(content: bytes) -> bytes:
    """A tar archive whose first header has its right checksum."""
    head = bytearray(content[:512].ljust(512, b"\0"))
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode("ascii")
    return bytes(head) + content[512:]
