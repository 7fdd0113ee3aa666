"""Versions of the libraries that decide pixels: another one of them may decode or resample differently."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from PIL import features

_LIBRARIES = {"libjpeg_turbo": "libjpeg-turbo", "zlib": "zlib", "webp": "libwebp", "libtiff": "libtiff"}
_LIBRARIES |= {"avif": "libavif", "jpg_2000": "OpenJPEG", "littlecms2": "Little CMS"}
_PACKAGES = [
    "pillow",
    "numpy",
    "pypdfium2",
    "pypdf",
    "pydicom",
    "python-gdcm",
    "pyjpegls",
    "av",
    "tifffile",
    "imagecodecs",
]
_PACKAGES += ["pi-heif", "openslide-bin", "nibabel", "rosbags"]


def pixel_versions() -> dict[str, str]:
    """The version of each library that decides pixels and is installed, by name; those inside Pillow's wheel too."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for feature, name in _LIBRARIES.items():
        number = features.version(feature)
        if number:
            found[name] = number
    return found
