"""Formats of phones, archives, hospitals and robots, written by other libraries and read back."""

from __future__ import annotations

import shutil
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.images.media import colours, depth
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames

HEIC = Path(__file__).parents[1] / "recorded" / "tiny.heic"
SMOOTH = np.stack(np.meshgrid(np.arange(0, 240, 5), np.arange(0, 120, 4)), 2).astype(np.uint8)
SMOOTH = np.dstack([SMOOTH, 255 - SMOOTH[..., :1]])


def frames(source: object, *settings: str, name: str = "a", done: tuple[int, ...] = ()) -> list[Frame]:
    profile = resolve("photo", settings=settings, environment={}).profile
    return list(read_frames(source, name=name, profile=profile, done=done))


def pixels(frame: Frame) -> np.ndarray:
    assert frame.picture is not None, frame.error
    return np.asarray(frame.picture)


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = BytesIO()
    (image or Image.fromarray(SMOOTH)).save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("format", "options", "most"),
    [("AVIF", {"quality": 95}, 12), ("JPEG2000", {}, 0), ("PPM", {}, 0), ("GIF", {}, 40)],
)
def test_stills_of_phones_and_archives(format: str, options: dict[str, object], most: int) -> None:
    (found,) = frames(encoded(format, **options))
    assert np.abs(pixels(found).astype(int) - SMOOTH).max() <= most
    assert found.last


@pytest.mark.parametrize("turn", [3, 5, 6, 8])
def test_avif_is_upright(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    (plain,) = frames(encoded("PNG", exif=exif))
    (found,) = frames(encoded("AVIF", exif=exif, quality=95))
    assert np.abs(pixels(found).astype(int) - pixels(plain)).max() <= 12


def test_heic_of_an_encoder_and_a_damaged_one() -> None:
    """8x8 blocks of random colours, encoded by x265 at quality 60."""
    pytest.importorskip("pi_heif", reason="the extra heif is not installed")
    (photo,) = frames(HEIC.read_bytes())
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(blocks).resize((64, 64))).astype(int)
    assert photo.picture is not None, photo.error
    assert np.abs(pixels(photo).astype(int) - expected).mean() < 12
    (found,) = frames(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100))
    assert isinstance(found.error, ImageError)


def test_animations_give_the_first_or_all() -> None:
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    content = encoded("GIF", pictures[0], save_all=True, append_images=pictures[1:], duration=[100, 200, 300])
    (first,) = frames(content)
    assert pixels(first)[0, 0].tolist() == [255, 0, 0]
    every = frames(content, "image.frames=all")
    assert [pixels(frame)[0, 0].tolist() for frame in every] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert [frame.time for frame in every] == [0, 0.1, pytest.approx(0.3)]
    assert [frame.last for frame in every] == [False, False, True]
    assert [frame.number for frame in frames(content, "image.frames=all", done=(1,))] == [0, 2]


def test_colour_profiles_are_used_on_request() -> None:
    """Red of a profile whose first two channels are exchanged, made from sRGB by its own tags."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = lab.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    content = encoded("PNG", Image.new("RGB", (4, 4), (255, 0, 0)), icc_profile=swapped)
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    pages = [encoded("TIFF", red, icc_profile=swapped), encoded("PNG", red.quantize(2), icc_profile=swapped)]
    for given in (content, *pages):
        (ignored,) = frames(given)
        assert pixels(ignored)[0, 0].tolist() == [255, 0, 0]
        (used,) = frames(given, "image.icc=true")
        assert np.abs(pixels(used)[0, 0].astype(int) - [0, 255, 0]).max() <= 2
        assert used.decisions[0].about == "colour"
    key = encoded("PNG", red, icc_profile=swapped, transparency=(255, 0, 0))
    assert pixels(frames(key, "image.icc=true")[0])[0, 0].tolist() == [255, 255, 255]
    (broken,) = frames(encoded("PNG", icc_profile=b"no profile"), "image.icc=true")
    assert broken.decisions[0].warning
    assert np.array_equal(pixels(broken), SMOOTH)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_deep_grey_is_brought_to_eight_bits_in_parts(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the range of the frame says, by its definition on all values at once."""
    monkeypatch.setattr(colours, "_STRIP", 30)
    monkeypatch.setattr(depth, "_PART", 10)
    values = np.random.default_rng(0).integers(1000, 60000, (7, 11)).astype(dtype)
    values[0, 3], values[6, 10] = 999, 60001  # ends of the range in the first part and the last
    if dtype == "float32":
        values[3] = np.nan
    (found,) = frames(encoded("TIFF", Image.fromarray(values)), "image.range=frame")
    exact = (np.nan_to_num(values, nan=999).astype(np.float64) - 999) * (255 / (60001 - 999))
    assert np.array_equal(pixels(found)[:, :, 1], np.rint(exact))


def volume(path: Path, affine: np.ndarray) -> bytes:
    """Values that grow to the right, three times as fast to the front, nine times as fast to the head."""
    nibabel = pytest.importorskip("nibabel", reason="the extra nifti is not installed")
    world = np.linalg.inv(affine[:3, :3] / np.abs(affine[:3, :3]).max(0))
    x, y, z = np.meshgrid(np.arange(8), np.arange(9), np.arange(5), indexing="ij")
    grid = np.stack([x, y, z], -1) @ np.linalg.inv(world).T
    values = (grid @ [1, 3, 9]).astype(np.float32)
    nibabel.Nifti1Image(values - values.min(), affine).to_filename(path)
    return path.read_bytes()


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_slices_lie_as_radiologists_look_at_them(tmp_path: Path, signs: tuple[int, int, int]) -> None:
    """Whatever order the file has them in: right at the left, the front at the top, from foot to head."""
    content = volume(tmp_path / "a.nii.gz", np.diag([0.8 * signs[0], 0.8 * signs[1], 5.0 * signs[2], 1]))
    found = frames(content, name="a.nii.gz")
    assert len(found) == 5
    for frame in found:
        plane = pixels(frame)[..., 0].astype(int)
        assert plane.shape == (9, 8)
        assert (np.diff(plane, axis=1) <= 0).all()
        assert (np.diff(plane, axis=0) <= 0).all()
        assert frame.aspect == 1
    assert [pixels(frame).mean() for frame in found] == sorted(pixels(frame).mean() for frame in found)
    coronal = frames(content, "volume.axis=coronal", "volume.step=4", name="a.nii.gz")
    assert [frame.picture.size for frame in coronal] == [(8, 5)] * 3
    assert coronal[0].aspect == pytest.approx(0.8 / 5)
    assert coronal[0].last is False


def test_a_volume_without_an_affine_is_refused(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra nifti is not installed")
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), None)
    image.to_filename(tmp_path / "a.nii")
    (found,) = frames(tmp_path / "a.nii")
    assert found.error is not None
    assert "affine" in found.error.message


@pytest.mark.parametrize(
    ("sides", "said"),
    [((900, 900, 600), "expected 972000000 bytes of values, found 128"), ((16384,) * 5, "at most 1073741824 bytes")],
)
def test_a_volume_with_fewer_values_than_it_states_is_refused_before_room_is_made(
    sides: tuple[int, ...], said: str
) -> None:
    """The product of the second sides is 0 in 64 bits."""
    nibabel = pytest.importorskip("nibabel", reason="the extra nifti is not installed")
    content = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes())
    content[40 : 42 + 2 * len(sides)] = struct.pack(f"<{1 + len(sides)}h", len(sides), *sides)
    (found,) = frames(bytes(content), name="a.nii")
    assert found.error is not None
    assert said in found.error.message


def bag(folder: Path) -> Path:
    pytest.importorskip("rosbags", reason="the extra ros is not installed")
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    from tests.support.recordings import message

    types = get_typestore(Stores.ROS2_HUMBLE)
    compressed = types.types["sensor_msgs/msg/CompressedImage"]
    plane = SMOOTH[..., 0]
    messages = {
        "/rgb": message(types, SMOOTH, pad=5),
        "/bgr": message(types, SMOOTH[..., ::-1], "bgr8"),
        "/mono": message(types, plane),
        "/deep": message(types, plane.astype(">u2") * 257, "mono16", big=1),
        "/yuv": message(types, np.dstack([np.full_like(plane, 128), plane]), "yuv422"),
        "/bayer": message(types, np.full_like(plane, 77), "bayer_rggb8"),
        "/odd": message(types, plane, "nonsense"),
    }
    png = np.frombuffer(encoded("PNG"), np.uint8)
    messages["/jpeg"] = compressed(messages["/rgb"].header, "rgb8; jpeg compressed bgr8", png)
    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for index, (topic, content) in enumerate(messages.items()):
            connection = writer.add_connection(topic, content.__msgtype__, typestore=types)
            for turn in range(3):
                stamp = 10**9 * (5 + turn) + index
                writer.write(connection, stamp, types.serialize_cdr(content, content.__msgtype__))
    return folder / "bag"


def test_pictures_of_recordings(tmp_path: Path) -> None:
    folder = bag(tmp_path)
    (recording,) = folder.glob("*.mcap")
    expected = {
        "/rgb": SMOOTH,
        "/bgr": SMOOTH,
        "/jpeg": SMOOTH,
        "/mono": np.dstack([SMOOTH[..., 0]] * 3),
        "/deep": np.dstack([SMOOTH[..., 0]] * 3),
        "/bayer": np.full_like(SMOOTH, 77),
        "/yuv": np.rint(np.clip(1.164 * (SMOOTH[..., :1].repeat(3, 2).astype(float) - 16), 0, 255)),
    }
    for source in (recording, recording.read_bytes()):
        for topic, values in expected.items():
            found = frames(source, f"ros.topics=['{topic}']")
            assert len(found) == 3, found[0].error
            assert np.abs(pixels(found[1]).astype(int) - values).max() <= 1
            assert [frame.time for frame in found] == pytest.approx([5, 6, 7], abs=1e-6)
            assert [frame.last for frame in found] == [False, False, True]
    every = frames(recording)
    assert len(every) == 24
    assert sum(frame.error is not None for frame in every) == 3, "those of an unknown encoding alone"
    assert "encoding 'nonsense'" in next(frame.error.message for frame in every if frame.error)
    assert len(frames(recording, "ros.rate=0.5", "ros.topics=['/rgb', '/bgr']")) == 4
    (alone,) = frames(b"SQLite format 3\0" + bytes(100))
    assert alone.error is not None
    assert "pass the folder" in alone.error.hint
    (missing,) = frames(recording, "ros.topics=['/rgbb']")
    assert missing.error is not None
    assert "no topic '/rgbb'" in missing.error.message
    shutil.rmtree(folder)


def test_slides_by_openslide(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="the extra wsi is not installed")
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    slide = np.random.default_rng(0).integers(0, 256, (512, 1024, 3)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.svs") as writer:
        text = "Aperio Image Library v12 |MPP = 0.5|AppMag = 20"
        writer.write(slide, tile=(64, 64), photometric="rgb", description=text, metadata=None)
        writer.write(slide[::2, ::2], tile=(64, 64), photometric="rgb", metadata=None, description="Aperio")
    (found,) = frames(tmp_path / "a.svs", name=str(tmp_path / "a.svs"))
    assert found.picture is not None, found.error
    assert found.picture.size == (1024, 512)
    assert found.dpi == 50800
    (tmp_path / "b.mrxs").write_bytes(b"nothing that is known")
    (unknown,) = frames(tmp_path / "b.mrxs", name=str(tmp_path / "b.mrxs"))
    assert unknown.error is not None
    assert "unknown vendor" in unknown.error.message
