"""Tiny files of every kind that is read, written by other libraries."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import gdcm
import nibabel
import numpy as np
import pyarrow as pa
import tifffile
from PIL import Image, ImageCms
from pyarrow import parquet
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pypdf import PdfReader, PdfWriter

from tests.support.dicoms import dataset, saved
from tests.support.pdfs import pdf, text
from tests.support.recordings import ros1, ros2

READERS = {
    "jpeg": ("jpg",),
    "png": ("png",),
    "webp": ("webp",),
    "gif": ("gif",),
    "bmp": ("bmp",),
    "avif": ("avif",),
    "heif": ("heic",),
    "jpeg 2000": ("jp2",),
    "netpbm": ("ppm", "pgm", "pbm"),
    "tiff": ("tif",),
    "slides": ("svs", "ome.tif"),
    "pdf": ("pdf",),
    "dicom": ("dcm",),
    "clips": ("mp4", "mkv", "ts", "avi", "h264", "mjpeg", "webm"),
    "volumes": ("nii", "nii.gz"),
    "ros 1": ("bag",),
    "ros 2": ("mcap", "db3", "yaml"),
    "shards": ("tar", "tgz"),
    "tables": ("parquet",),
}
"""The suffixes of each reader's seeds."""

HEIC = Path(__file__).parents[2] / "runtime/images/recorded/tiny.heic"


@dataclass(frozen=True)
class Seed:
    """A sound input.

    Attributes:
        name: Of its file, or of the file in it that is damaged; its suffix tells shards, tables and slides.
        content: Of that file.
        beside: Further files of the input, such as the description of a ROS 2 bag, which stay as they are.
        folder: Whether the input is the folder rather than the file.
    """

    name: str
    content: bytes = field(repr=False)
    beside: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    folder: bool = False

    @property
    def reader(self) -> str:
        suffix = self.name.partition(".")[2]
        return next(reader for reader, suffixes in READERS.items() if suffix in suffixes)


def seeds(work: Path) -> list[Seed]:
    """One of each kind; ``work`` is an empty folder."""
    found = [*_stills(), *_tiffs(), *_documents(), *_dicoms(work), *_clips(work), *_volumes(), *_recordings(work)]
    return [*found, *_archives()]


def _picture(size: tuple[int, int] = (20, 14)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1] // 2, size[0] // 2, 3)).astype(np.uint8)
    return Image.fromarray(values).resize(size)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _stills() -> Iterator[Seed]:
    image = _picture()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Seed("a.jpg", _encoded(image, "JPEG", dpi=(204, 98), icc_profile=profile))
    yield Seed("b.jpg", _encoded(image.convert("CMYK"), "JPEG", progressive=True))
    yield Seed("a.png", _encoded(image, "PNG", dpi=(72, 72)))
    yield Seed("b.png", _encoded(image.quantize(8), "PNG", transparency=0))
    yield Seed("c.png", _encoded(Image.fromarray(np.arange(200, dtype=np.uint16).reshape(10, 20) * 20), "PNG"))
    yield Seed("d.png", _encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)]))
    yield Seed("a.webp", _encoded(image, "WEBP"))
    yield Seed("b.webp", _encoded(image, "WEBP", lossless=True, save_all=True, append_images=[image.rotate(90)]))
    yield Seed("a.gif", _encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]))
    yield Seed("a.bmp", _encoded(image, "BMP"))
    yield Seed("b.bmp", _encoded(image.convert("RGBA"), "BMP"))
    yield Seed("a.avif", _encoded(image, "AVIF"))
    yield Seed("a.heic", HEIC.read_bytes())
    yield Seed("a.jp2", _encoded(image, "JPEG2000"))
    yield Seed("a.ppm", _encoded(image, "PPM"))
    yield Seed("a.pgm", b"P2 # grey\n4 3 255\n" + b"1 2 3 255 " * 3)
    yield Seed("a.pbm", b"P4 16 3\n\1\2\3\4\5\6")


def _tiffs() -> Iterator[Seed]:
    image = _picture()
    for compression in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield Seed(f"{compression}.tif", _encoded(image, "TIFF", compression=compression, dpi=(204, 98)))
    for compression in ("group3", "group4"):
        yield Seed(f"{compression}.tif", _encoded(image.convert("1"), "TIFF", compression=compression))
    yield Seed("pages.tif", _encoded(image, "TIFF", save_all=True, append_images=[image.convert("L")]))
    values = np.asarray(image)
    deep = values.astype(np.uint16) * 16
    for name, array, options in (
        ("big", values, {"bigtiff": True, "byteorder": ">"}),
        ("planes", np.moveaxis(deep, 2, 0), {"planarconfig": "separate", "photometric": "rgb"}),
        ("zstd", values, {"compression": "zstd", "predictor": 2}),
        ("white", deep[..., 0], {"photometric": "miniswhite", "extratags": [(281, 3, 1, 4095, True)]}),
        ("float", deep[..., 0].astype(np.float32), {"compression": "deflate", "predictor": 3}),
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, metadata=None, **options)
        yield Seed(f"{name}.tif", stream.getvalue())
    for name, ome in (("pyramid.ome.tif", True), ("slide.svs", False)):
        stream = io.BytesIO()
        large = np.asarray(_picture((64, 64)))
        text = None if ome else "Aperio Image Library v12 |MPP = 0.5|AppMag = 20"
        with tifffile.TiffWriter(stream, ome=ome) as writer:
            tiles = {"tile": (16, 16), "photometric": "rgb", "compression": "deflate" if ome else "jpeg"}
            writer.write(large, subifds=1 if ome else None, description=text, metadata={} if ome else None, **tiles)
            writer.write(large[::2, ::2], subfiletype=1 if ome else None, metadata=None, **tiles)
        yield Seed(name, stream.getvalue())


def _documents() -> Iterator[Seed]:
    plain = pdf([text("page", 12, (9, 9)), "1 0 0 rg 5 5 20 20 re f"], (60, 40), page="/UserUnit 2")
    yield Seed("a.pdf", plain)
    writer = PdfWriter(PdfReader(io.BytesIO(plain)))
    writer.compress_identical_objects()
    stream = io.BytesIO()
    writer.write(stream)
    yield Seed("b.pdf", stream.getvalue())
    yield Seed("c.pdf", _encoded(_picture(), "PDF"))
    font = "/Resources << /Font << /F << /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /UniGB-UCS2-H "
    font += "/DescendantFonts [<< /Type /Font /Subtype /CIDFontType0 /BaseFont /X /CIDSystemInfo "
    font += "<< /Registry (Adobe) /Ordering (GB1) /Supplement 1 >> >>] >> >> >>"
    yield Seed("d.pdf", pdf(["BT /F 9 Tf 5 5 Td <53D1> Tj ET"], (60, 40), page=font))


def _dicoms(work: Path) -> Iterator[Seed]:
    grey = np.asarray(_picture().convert("L"))
    deep = grey.astype(np.uint16) * 16
    windowed = {"WindowCenter": 900, "WindowWidth": 2000, "RescaleSlope": 1, "RescaleIntercept": -1024}
    yield Seed("a.dcm", saved(dataset(deep, PixelSpacing=[1, 2], PixelPaddingValue=5, **windowed)))
    yield Seed("cine.dcm", saved(dataset(np.stack([deep, deep[::-1]]))))
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], bytes(range(256))
    table["LUTData"].VR = "OW"
    yield Seed("table.dcm", saved(dataset(deep, VOILUTSequence=[table], PresentationLUTShape="INVERSE")))
    palette = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 8] for name in ("Red", "Green", "Blue")}
    palette |= {f"{name}PaletteColorLookupTableData": bytes(range(256)) for name in ("Red", "Green", "Blue")}
    yield Seed("palette.dcm", saved(dataset(grey, PhotometricInterpretation="PALETTE COLOR", **palette)))
    yield Seed("rgb.dcm", saved(dataset(np.asarray(_picture()))))
    for syntax in (RLELossless, JPEGLSLossless):
        data = dataset(deep)
        data.compress(syntax)
        yield Seed(f"{syntax.keyword}.dcm", saved(data))
    for syntax, form in ((JPEGBaseline8Bit, "JPEG"), (JPEG2000Lossless, "JPEG2000")):
        data = dataset(grey)
        data.PixelData = encapsulate([_encoded(Image.fromarray(grey), form)])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = syntax
        yield Seed(f"{syntax.keyword}.dcm", saved(data))
    yield Seed("JPEGLossless.dcm", _lossless(saved(dataset(deep)), work))
    data = dataset(deep, **windowed)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    yield Seed("deflated.dcm", saved(data))
    bare = Dataset()
    bare.update({item.tag: item for item in dataset(deep, **windowed)})
    bare.SOPInstanceUID = generate_uid()
    stream = io.BytesIO()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    bare.save_as(stream, implicit_vr=False, little_endian=True, enforce_file_format=False)
    yield Seed("bare.dcm", stream.getvalue()[stream.getvalue().index(b"\x08\0\x16\0UI") :])


def _lossless(content: bytes, work: Path) -> bytes:
    """The same file in JPEG Lossless, Process 14, which GDCM encodes."""
    plain, packed = work / "plain.dcm", work / "lossless.dcm"
    plain.write_bytes(content)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(packed))
    assert writer.Write()
    return packed.read_bytes()


def _clips(work: Path) -> Iterator[Seed]:
    pictures = [np.asarray(_picture((32, 32)).rotate(90 * turn)) for turn in range(4)]
    for name, codec in (
        ("a.mp4", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.ts", "mpeg2video"),
        ("a.avi", "mjpeg"),
        ("a.h264", "libx264"),
        ("a.mjpeg", "mjpeg"),
        ("a.webm", "libvpx"),
    ):
        path = work / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=2)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        yield Seed(name, path.read_bytes())


def _volumes() -> Iterator[Seed]:
    values = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    volume = nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])).to_bytes()
    yield Seed("a.nii", volume)
    yield Seed("a.nii.gz", gzip.compress(volume, mtime=0))
    yield Seed("b.nii", nibabel.Nifti2Image(values, np.diag([1, 1, 3, 1])).to_bytes())


def _recordings(work: Path) -> Iterator[Seed]:
    pictures = {"/left": np.asarray(_picture()), "/right": np.asarray(_picture().convert("L"))}
    yield Seed("a.bag", ros1(work / "a.bag", pictures).read_bytes())
    for kind in ("mcap", "db3"):
        folder = ros2(work / f"{kind}-bag", pictures, kind)
        (path,) = folder.glob(f"*.{kind}")
        yield Seed(path.name, path.read_bytes())
        metadata = (folder / "metadata.yaml").read_bytes()
        yield Seed(path.name, path.read_bytes(), (("metadata.yaml", metadata),), folder=True)
        yield Seed("metadata.yaml", metadata, ((path.name, path.read_bytes()),), folder=True)


def _archives() -> Iterator[Seed]:
    image = _encoded(_picture(), "PNG")
    for name, mode in (("a.tar", "w"), ("a.tgz", "w:gz")):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as archive:
            for member in ("a.png", "b.png", "c.txt"):
                entry = tarfile.TarInfo(member)
                entry.size = len(image)
                archive.addfile(entry, io.BytesIO(image))
            link = tarfile.TarInfo("d.png")
            link.type, link.linkname = tarfile.LNKTYPE, "a.png"
            archive.addfile(link)
        yield Seed(name, stream.getvalue())
    for name, column, compression in (
        ("a.parquet", pa.array([{"bytes": image, "path": "x"}] * 2), "snappy"),
        ("b.parquet", pa.array([[image], [image, image]]), "zstd"),
        ("c.parquet", pa.array([image] * 2).dictionary_encode(), "gzip"),
    ):
        stream = io.BytesIO()
        parquet.write_table(pa.table({"image": column}), stream, compression=compression)
        yield Seed(name, stream.getvalue())
