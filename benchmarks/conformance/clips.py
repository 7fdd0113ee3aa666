"""Clips against FFmpeg's command line."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.conformance.probe import Pixels, Probe, pnm, run

BY = "FFmpeg"
CONTAINERS = {
    "mp4": "libx264",
    "mkv": "libx264",
    "mov": "mpeg4",
    "ts": "libx264",
    "mpg": "mpeg2video",
    "avi": "mpeg4",
    "flv": "flv1",
    "webm": "libvpx-vp9",
    "wmv": "wmv2",
    "m4v": "mpeg4",
    "h264": "libx264",
    "hevc": "libx265",
    "mjpeg": "mjpeg",
    "ogv": "libtheora",
}
MATRICES = {
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "turned by 180": (-1, 0, 0, -1),
    "turned clockwise": (0, 1, -1, 0),
    "turned anticlockwise": (0, -1, 1, 0),
}


def probes(folder: Path) -> Iterator[Probe]:
    for suffix, codec in CONTAINERS.items():
        path = folder / f"a.{suffix}"
        encode(path, codec, "testsrc2=size=160x120:rate=25:duration=1")
        yield Probe(f"{suffix}, {codec}", path, frame_of(path), BY)
        if suffix in ("mp4", "mkv", "ts", "mpg", "avi", "mov"):
            settings = ("video.rate=25",)
            yield Probe(f"{suffix}, frame 13", path, frame_of(path, 12), BY, settings=settings, frame=12)
    for aspect in ("64:45", "12:11", "4:3"):
        for suffix in ("mp4", "mkv", "mpg"):
            path = folder / f"sar-{aspect.replace(':', '-')}.{suffix}"
            codec = "mpeg2video" if suffix == "mpg" else "mpeg4"
            shape = {"64:45": "720x576", "12:11": "352x288", "4:3": "1440x1080"}[aspect]
            encode(path, codec, f"testsrc2=size={shape}:rate=25:duration=0.2,setsar={aspect.replace(':', '/')}")
            if suffix == "mpg":
                continue
            yield Probe(f"sample aspect ratio {aspect}, {suffix}", path, _square(path, shape, aspect), BY, 2.5)
    for name, size in (("576 lines", "720x576"), ("720 lines", "1280x720"), ("1080 lines", "1920x1080")):
        path = folder / f"untagged-{size}.mkv"
        encode(path, "ffv1", f"testsrc2=size={size}:rate=25:duration=0.1,format=yuv444p")
        matrix = "bt601" if size == "720x576" else "bt709"
        yield Probe(f"untagged, {name}", path, frame_of(path, 0, f"scale=in_color_matrix={matrix}"), f"{BY}, {matrix}")
    for matrix in ("bt709", "smpte170m", "bt2020nc"):
        path = folder / f"tagged-{matrix}.mkv"
        source = f"testsrc2=size=320x240:rate=25:duration=0.1,format=yuv444p,setparams=colorspace={matrix}"
        encode(path, "ffv1", source, "-colorspace", matrix)
        yield Probe(f"tagged {matrix}", path, frame_of(path), BY)
    path = folder / "full.mkv"
    source = "testsrc2=size=320x240:rate=25:duration=0.1,format=yuv444p,setparams=range=full"
    encode(path, "ffv1", source, "-color_range", "pc")
    yield Probe("full range", path, frame_of(path), BY)
    path = folder / "interlaced.mkv"
    encode(path, "ffv1", "testsrc2=size=320x240:rate=50:duration=0.4,interlace,setfield=tff")
    yield Probe(
        "interlaced", path, frame_of(path, 3, "bwdif=mode=send_frame"), f"{BY} bwdif", 2.0, ("video.rate=25",), 3
    )
    for trc in ("smpte2084", "arib-std-b67"):
        path = folder / f"{trc}.mkv"
        grey = "gradients=size=320x240:c0=black:c1=white:x0=0:y0=0:x1=319:y1=0:rate=25:duration=0.1"
        tags = f"format=yuv444p10le,setparams=color_trc={trc}:color_primaries=bt2020:colorspace=bt2020nc:range=tv"
        stated = ["-color_trc", trc, "-color_primaries", "bt2020", "-colorspace", "bt2020nc", "-color_range", "tv"]
        encode(path, "ffv1", f"{grey},{tags}", *stated)
        given = f"setparams=color_trc={trc}:color_primaries=bt2020:colorspace=bt2020nc:range=tv"
        chain = f"{given},zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0"
        yield Probe(
            f"{trc} toned down", path, frame_of(path, 0, f"{chain},zscale=t=bt709:m=bt709:r=tv"), f"{BY} zscale", 20.0
        )
    for name, (a, b, c, d) in MATRICES.items():
        path = folder / f"turned-{name.replace(' ', '-')}.mp4"
        content = (folder / "a.mp4").read_bytes()
        place = content.index(b"tkhd") + 4 + 40
        matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        path.write_bytes(content[:place] + matrix + content[place + 36 :])
        yield Probe(name, path, frame_of(path), BY)
    yield from _odd(folder)


def _odd(folder: Path) -> Iterator[Probe]:
    every = ("video.rate=25",)
    path, source = folder / "avchd.m2ts", "testsrc2=size=160x120:rate=25:duration=0.4"
    encode(path, "libx264", source, "-f", "mpegts", "-mpegts_m2ts_mode", "1")
    yield Probe("AVCHD, packets of 192 bytes", path, frame_of(path, 5), BY, settings=every, frame=5)
    path = folder / "h264.avi"
    encode(path, "libx264", source, "-bf", "2")
    yield Probe("H.264 with B-frames in AVI", path, frame_of(path, 5), BY, settings=every, frame=5)
    cover, path = folder / "cover.png", folder / "cover.mkv"
    run("ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "color=red:size=300x300", "-frames:v", "1", cover)
    two = ["-i", cover, "-i", folder / "a.mp4", "-map", "0", "-map", "1:v"]
    run("ffmpeg", "-v", "error", "-y", *two, "-c", "copy", "-disposition:v:0", "attached_pic", path)
    yield Probe("a cover before the clip", path, frame_of(folder / "a.mp4"), BY)
    path = folder / "two.mkv"
    small = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=0.4"]
    large = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=0.4"]
    run("ffmpeg", "-v", "error", "-y", *small, *large, "-map", "0", "-map", "1", "-c:v", "ffv1", path)
    yield Probe("the better of two streams", path, frame_of(path), f"{BY}, its own choice")
    path = folder / "sar-container.mkv"
    run("ffmpeg", "-v", "error", "-y", "-i", folder / "a.mp4", "-c", "copy", "-aspect", "2:1", path)
    yield Probe("ratio that the container alone has", path, _square(path, "160x120", "3:2"), BY, 4.0)


def encode(path: Path, codec: str, source: str, *tags: str) -> None:
    form = ["-f", "hevc"] if path.suffix == ".hevc" else []
    run("ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", codec, *tags, *form, path)


def frame_of(path: Path, number: int = 0, chain: str = "") -> Any:
    """A frame as the command line writes it, in the conversion that is exact where chroma is not halved."""

    def reference(folder: Path) -> Pixels:
        pick = f"select=eq(n\\,{number})"
        filters = ",".join(part for part in (chain, pick) if part)
        options = ["-vf", filters, "-frames:v", "1", "-sws_flags", "bilinear", "-pix_fmt", "rgb24", "-f", "image2"]
        run("ffmpeg", "-v", "error", "-y", "-i", path, *options, folder / "a.ppm")
        return pnm((folder / "a.ppm").read_bytes())

    return reference


def _square(path: Path, shape: str, aspect: str) -> Any:
    width, height = (int(side) for side in shape.split("x"))
    shown = round(width * Fraction(aspect.replace(":", "/")))
    matrix = "bt709" if height > 576 else "bt601"
    return frame_of(path, 0, f"scale={shown}:{height}:in_color_matrix={matrix}")
