"""A bundle that adds up pixels, and image files of which two are bad."""

from __future__ import annotations

import pytest

from tests.serving.ray.support import BAD, IMAGES
from tests.serving.support import png
from tests.support.bundles import write_summing_bundle


@pytest.fixture(scope="package")
def bundle(tmp_path_factory):
    return write_summing_bundle(tmp_path_factory.mktemp("ray") / "sums")


@pytest.fixture(scope="package")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate(IMAGES):
        (folder / f"{index:02}.png").write_bytes(b"no image" if index in BAD else png(image))
    return sorted(folder.iterdir())
