"""What ignoring colour profiles changes: ``python -m benchmarks.conformance.profiles PHOTO…``.

Each photo, taken for sRGB, is stored in Display P3, the space of today's phones, with its profile, and read with and
without ``image.icc``. Printed are the differences from the photo in levels of 255.
"""

from __future__ import annotations

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from naflex_deploy.core.config import resolve
from naflex_deploy.runtime.images.media.read import read_frames

PRIMARIES = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}
"""Of Display P3, adapted to D50."""


def main(photos: list[str]) -> None:
    content = display_p3()
    wide = ImageCms.ImageCmsProfile(BytesIO(content))
    for path in map(Path, photos):
        photo = Image.open(path).convert("RGB")
        stored = ImageCms.profileToProfile(photo, ImageCms.createProfile("sRGB"), wide, outputMode="RGB")
        assert stored is not None
        stream = BytesIO()
        stored.save(stream, "PNG", icc_profile=content)
        found = []
        for setting in ("false", "true"):
            profile = resolve("photo", settings=[f"image.icc={setting}"], environment={}).profile
            (frame,) = read_frames(stream.getvalue(), name=path.name, profile=profile)
            difference = np.abs(np.asarray(frame.picture).astype(int) - np.asarray(photo))
            found.append(f"mean {difference.mean():.1f}, largest {difference.max()}")
        print(f"{path.name}: ignored {found[0]}; used {found[1]}")


def display_p3() -> bytes:
    """The profile of sRGB with the primaries of Display P3, whose curve is the same."""
    found = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", found, 128)
    for index in range(count):
        name, offset, _ = struct.unpack_from(">4sII", found, 132 + 12 * index)
        if name in PRIMARIES:
            struct.pack_into(">3i", found, offset + 8, *(round(value * 65536) for value in PRIMARIES[name]))
    return bytes(found)


if __name__ == "__main__":
    main(sys.argv[1:])
