"""``naflex-deploy embed`` on inputs that contradict themselves: each is named, and harms no other."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path

import av
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom import Dataset

from tests.cli.conftest import Run
from tests.support.dicoms import dataset, saved
from tests.support.recordings import ros1, ros2

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
DEEP = PIXELS[..., 0].astype(np.uint16) * 257


def encoded(form: str, values: np.ndarray = PIXELS, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(values).save(stream, form, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, body: bytes, values: np.ndarray = PIXELS) -> bytes:
    content, chunk = encoded("PNG", values), kind + body
    packed = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + packed + content[33:]


def tiff(values: np.ndarray, *tags: tuple[int, int, int, object, bool], **options: object) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, values, metadata=None, extratags=list(tags), **options)
    return stream.getvalue()


def spaced_frames(*spacings: list[float] | None) -> bytes:
    """A file of several frames, each with a spacing of its own, or none."""
    groups = []
    for spacing in spacings:
        group, measures = Dataset(), Dataset()
        if spacing is not None:
            measures.PixelSpacing = spacing
            group.PixelMeasuresSequence = [measures]
        groups.append(group)
    pixels = np.stack([PIXELS[..., 0]] * len(spacings))
    return saved(dataset(pixels, PerFrameFunctionalGroupsSequence=groups))


def volume(affine: np.ndarray | None) -> bytes:
    return bytes(nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), affine).to_bytes())


def flat_volume() -> bytes:
    content = bytearray(volume(np.eye(4)))
    struct.pack_into("<f", content, 80, 0.0)  # the first voxel spacing
    return bytes(content)


def looping_pdf() -> bytes:
    return (
        b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"
        b"2 0 obj\n<< /Type /Pages /Kids [3 0 R] /Count 3 >>\nendobj\n"
        b"3 0 obj\n<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 3 >>\nendobj\n"
        b"trailer << /Size 4 /Root 1 0 R >>\n%%EOF"
    )


def backwards(path: Path) -> bytes:
    """A clip that begins again in its middle, as when two recordings are written one after another."""
    parts = []
    for name in ("first", "second"):
        part = path.with_name(f"{name}.mkv")
        with av.open(str(part), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv444p"
            for _ in range(20):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(PIXELS, "rgb24")))
            container.mux(stream.encode())
        parts.append(part.read_bytes())
        part.unlink()
    first, second = parts
    cluster = b"\x1f\x43\xb6\x75"
    return (
        first[: first.rindex(b"\x1c\x53\xbb\x6b")] + second[second.index(cluster) : second.rindex(b"\x1c\x53\xbb\x6b")]
    )


BAD = {
    "zero-jfif.jpg": (lambda: encoded("JPEG").replace(b"\0\1\0\0", b"\0\0\0\1", 1), None),
    "zero-phys.png": (lambda: png_chunk(b"pHYs", struct.pack(">IIB", 0, 1, 0)), "PNG pHYs says 0 x 1"),
    "infinite.tif": (
        lambda: tiff(PIXELS, resolution=(83, 72)).replace(struct.pack("<II", 83, 1), struct.pack("<II", 83, 0)),
        "TIFF resolution says inf x 72",
    ),
    "zero.dcm": (
        lambda: saved(dataset(PIXELS[..., 0], PixelAspectRatio=[0, 1])),
        "PixelAspectRatio says 0 x 1",
    ),
    "partly.dcm": (lambda: spaced_frames([1, 2], None, [1, 2]), "frame 2: expected a pixel spacing"),
    "bits.png": (lambda: png_chunk(b"sBIT", b"\x11", DEEP), "17 of 16 bits"),
    "bits.tif": (
        lambda: tiff(DEEP, (270, 2, 0, '<OME><Pixels SignificantBits="20"/></OME>', True)),
        "20 significant bits of OME exceed the 16 bits",
    ),
    "bits.dcm": (lambda: saved(dataset(DEEP, BitsStored=17, HighBit=16)), "17 bits stored in 16 allocated"),
    "flat.nii": (flat_volume, "a voxel spacing of [0.0, 1.0, 1.0]"),
    "nowhere.nii": (lambda: volume(None), "affine"),
    "loop.pdf": (looping_pdf, "page 3: damaged"),
    "unknown.mrxs": (lambda: b"of no vendor" * 20, "unknown vendor"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "inputs"
    found.mkdir()
    return found


def test_what_contradicts_itself_is_named_and_harms_no_other(run: Run, bundle: Path, folder: Path) -> None:
    jfif = encoded("JPEG")
    place = jfif.index(b"JFIF\0") + 7
    contents = {name: make() for name, (make, _) in BAD.items()}
    contents["zero-jfif.jpg"] = jfif[:place] + struct.pack(">BHH", 0, 1, 0) + jfif[place + 5 :]
    words = {name: word for name, (_, word) in BAD.items()} | {"zero-jfif.jpg": "JFIF density says 1 x 0"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "backwards.mkv").write_bytes(backwards(folder / "backwards.mkv"))
    words["backwards.mkv"] = "its times run backwards, from 1.900 s to 0.000 s"
    for name in ("0.png", "m.png", "z.png"):
        (folder / name).write_bytes(encoded("PNG"))
    result = run("embed", bundle, folder, "-o", folder.parent / "out.jsonl", "--json", "--set", "video.rate=10")
    assert result.exit_code == 6
    document = json.loads(result.stdout)
    errors: dict[str, str] = {}
    for item in document["rejected"]:
        errors[Path(item["path"]).name] = item["error"]
    assert set(errors) == set(words)
    for name, word in words.items():
        assert word is not None
        assert word in errors[name], name
    rows = [json.loads(line) for line in (folder.parent / "out.jsonl").read_text().splitlines()]
    frames = {(Path(row["path"]).name, row["frame"]) for row in rows}
    assert {("0.png", 0), ("m.png", 0), ("z.png", 0), ("partly.dcm", 0), ("partly.dcm", 2)} <= frames
    assert sum(name == "backwards.mkv" for name, _ in frames) == 20, "those before it"


def test_a_ratio_of_nothing_may_be_overruled(run: Run, bundle: Path, folder: Path) -> None:
    for name in ("zero-phys.png", "infinite.tif", "zero.dcm", "partly.dcm", "flat.nii"):
        (folder / name).write_bytes(BAD[name][0]())
    result = run("embed", bundle, folder, "--set", "image.pixel_aspect=square")
    assert result.exit_code == 0, result.output


def test_doubts_are_printed_and_ratios_written(run: Run, bundle: Path, folder: Path) -> None:
    (folder / "camera.tif").write_bytes(tiff(DEEP // 16))
    (folder / "fax.tif").write_bytes(tiff(PIXELS, resolution=(204, 98)))
    output = folder.parent / "out.npz"
    result = run("embed", bundle, folder, "-o", output)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "warning:" in line]
    assert "camera.tif, frame 1: 0..65535: all of 16 bits; the frame uses only" in line
    with np.load(output) as arrays:
        assert arrays["aspect"].tolist() == [1, pytest.approx(98 / 204)]
        assert (arrays["width"].tolist(), arrays["height"].tolist()) == ([32, 32], [24, 24]), "as stored"
    found = json.loads(run("embed", bundle, folder, "--json").stdout)
    assert [Path(item["path"]).name for item in found["warnings"]] == ["camera.tif"]
    assert [row["aspect"] for row in found["rows"]] == [1, pytest.approx(98 / 204)]


def test_cameras_of_a_recording_share_packs(run: Run, bundle: Path, folder: Path) -> None:
    """A bag of ROS 1, and folders of ROS 2 bags, each one input: frames in the order of their times."""
    cameras = {"/front/image": PIXELS, "/left/image": PIXELS[:16], "/right/image": PIXELS[:, :16]}
    ros1(folder / "drive.bag", cameras)
    for kind in ("db3", "mcap"):
        ros2(folder / kind, cameras, kind)
    result = run("embed", bundle, folder, "--json", "--set", "image.tokens=16", "-o", folder.parent / "out.npz")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    rows = {kind: [row for row in document["rows"] if row["path"].endswith(kind)] for kind in ("bag", "db3", "mcap")}
    for found in rows.values():
        assert [row["frame"] for row in found] == list(range(6))
        assert [row["time"] for row in found] == pytest.approx([5, 5, 5, 6, 6, 6], abs=1e-6)
        assert [(row["width"], row["height"]) for row in found[:3]] == [(32, 24), (32, 16), (16, 24)]
        assert found[0]["sha256"]
    assert document["packs"] < 9, "each of the 18 frames alone would be a pack"
    one = run("embed", bundle, folder, "--json", "--set", 'ros.topics=["/left/image"]')
    assert [(row["width"], row["height"]) for row in json.loads(one.stdout)["rows"]] == [(32, 16)] * 6
    wrong = run("embed", bundle, folder / "drive.bag", "--set", 'ros.topics=["/lefd/image"]')
    assert wrong.exit_code == 6
    assert "no topic '/lefd/image'" in wrong.stderr
    assert "/left/image" in wrong.stderr
