"""Small files of the kinds that each extra reads."""

from __future__ import annotations

from pathlib import Path

from tests.support.fuzzing.seeds import seeds

SAMPLES: dict[str, tuple[str, ...]] = {
    "pdf": ("a.pdf", "b.pdf", "c.pdf"),
    "dicom": (".dcm",),
    "video": (".mp4", ".mkv", ".ts", ".avi", ".h264", ".mjpeg", ".webm"),
    "tiff": ("planes.tif", "zstd.tif", "float.tif"),
    "wsi": (".svs",),
    "heif": (".heic",),
    "nifti": (".nii", ".nii.gz"),
    "ros": (".bag", ".mcap", "metadata.yaml"),
    "parquet": (".parquet",),
    "base": (".jpg", ".png", ".webp", ".gif", ".bmp", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".tar", "group4.tif"),
}
"""By extra: how the names of its files end."""


def write_samples(work: Path) -> dict[str, list[Path]]:
    """Write the files of each extra to a folder, and give their paths; of a recording in a folder, the folder."""
    (made := work / "made").mkdir()
    found: dict[str, list[Path]] = {name: [] for name in SAMPLES}
    for number, seed in enumerate(seeds(made)):
        for name, ends in SAMPLES.items():
            if seed.name.endswith(ends):
                folder = work / "samples" / f"{number:03}"
                folder.mkdir(parents=True)
                for file, content in ((seed.name, seed.content), *seed.beside):
                    (folder / file).write_bytes(content)
                found[name].append(folder if seed.folder else folder / seed.name)
                break
    return found
