from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from naflex_deploy.bench.load.mixes import DISTRIBUTIONS, choose_mix, draw_sizes, encode, read_sizes
from naflex_deploy.core.errors import UsageError
from tests.serving.support import pixels, png


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_seed_always_gives_the_same_sizes(name):
    first = draw_sizes(name, 64, seed=3)
    assert first == draw_sizes(name, 64, seed=3)
    assert first != draw_sizes(name, 64, seed=4)
    assert len(first) == 64
    assert all(1 <= width * height <= 40_000_000 and min(width, height) >= 1 for width, height in first)


def test_distributions_are_what_they_say():
    photos = draw_sizes("photos", 2000)
    assert np.mean([size in ((640, 480), (480, 640), (640, 427)) for size in photos]) > 0.6
    web = np.array(draw_sizes("web", 2000))
    assert web.min() >= 200
    assert (web.max(axis=1) / web.min(axis=1)).max() <= 3.02
    areas = np.log(web.prod(axis=1))
    assert areas.std() == pytest.approx(0.9, rel=0.2)
    pages = np.array(draw_sizes("documents", 2000), float)
    tall = pages[:, 1] / pages[:, 0]
    receipts = tall >= 2.9
    assert receipts.mean() == pytest.approx(0.2, abs=0.04)
    sheets = np.maximum(tall, 1 / tall)[~receipts]
    assert set(np.round(sheets, 2)) <= {1.29, 1.41, 1.42}
    ui = np.array(draw_sizes("ui", 500), float)
    shapes = ui.max(axis=1) / ui.min(axis=1)
    assert np.all(np.isclose(shapes, 16 / 9, atol=0.01) | np.isclose(shapes, 19.5 / 9, atol=0.01))
    assert max(max(size) for size in draw_sizes("thumbnails", 500)) <= 160
    hard = draw_sizes("adversarial", 64, max_pixels=10**6)
    assert max(width * height for width, height in hard) == 10**6
    assert any(width == 1 and height > 400 for width, height in hard)
    assert any(height == 1 and width > 400 for width, height in hard)
    assert any(max(size) < 16 for size in hard)


@pytest.mark.parametrize(("size", "codec"), [((70, 33), "JPEG"), ((1, 900), "PNG"), ((70_000, 1), "JPEG")])
def test_images_have_their_size(size, codec):
    with Image.open(BytesIO(encode(size, codec))) as image:
        assert image.size == size
        image.load()
    assert encode(size, codec, 1) == encode(size, codec, 1) != encode(size, codec, 2)


def written(path: Path, text: str | bytes) -> Path:
    file = path / "sizes.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9999), st.integers(1, 9999)), min_size=1, max_size=20),
    header=st.sampled_from(["", "w,h\n", "width,height\r\n", "﻿w,h\n"]),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    space=st.sampled_from(["", " "]),
)
def test_sizes_are_read_back(tmp_path_factory, sizes, header, end, space):
    text = header + "".join(f"{w},{space}{h}{end}" for w, h in sizes)
    assert read_sizes(written(tmp_path_factory.mktemp("sizes"), text)) == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected w,h lines, found none"),
        ("w,h\n", "expected w,h lines, found none"),
        ("640,480\n640\n", "line 2: expected width,height in pixels, found '640'"),
        ("w,h\n640,480,3\n", "line 2"),
        ("640,-480\n", "line 1"),
        ("640,0\n", "line 1"),
        ("640,4e2\n", "line 1"),
        ("640,99999999999999999999\n", "line 1"),
        ("640,٤٨٠\n", "line 1"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_what_is_no_size_is_named_by_its_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_sizes(written(tmp_path, text))


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_sizes(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"no mix named 'photo'.*did you mean 'photos'"):
        choose_mix("photo", None, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="expected images, found none"):
        choose_mix(None, tmp_path / "empty", 4)


def test_a_file_of_sizes_gives_images_of_them(tmp_path):
    path = written(tmp_path, "".join(f"{10 + n},{20 + n}\n" for n in range(30)) + "5000,5000\n")
    mix = choose_mix(None, path, 8, seed=1, max_pixels=10**6)
    sizes = [Image.open(BytesIO(source)).size for source in mix.sources]
    assert len(sizes) == 8
    assert sizes == sorted(set(sizes))
    assert all(h == w + 10 for w, h in sizes)
    assert mix.about == "8 of 31 sizes, 1 above image.max_pixels left out"
    assert len(choose_mix(None, path, 100, max_pixels=10**6).sources) == 30
    with pytest.raises(UsageError, match=r"every size is above image\.max_pixels"):
        choose_mix(None, written(tmp_path, "5000,5000\n"), 1, max_pixels=10**6)


def test_a_directory_gives_its_files_as_they_are(tmp_path):
    contents = [png(pixels(seed)) for seed in range(3)]
    for seed, content in enumerate(contents):
        (tmp_path / f"{seed}.png").write_bytes(content)
    assert choose_mix(None, tmp_path, 8).sources == tuple(contents)
