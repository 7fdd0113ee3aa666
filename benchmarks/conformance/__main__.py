"""Write the conformance table: ``python -m benchmarks.conformance [docs/inputs.md]``.

Needs the packages dcmtk, dcm2niix, ffmpeg, gdal-bin, liblcms2-utils, libheif-examples, poppler-utils, mupdf-tools,
netpbm, libtiff-tools, libopenjp2-tools, webp and libavif-bin, and the extra ``dev``. The table goes between the two
marks in the file; the exit code is 1 where a probe is wrong.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from benchmarks.conformance import clips, dicoms, documents, odd_stills, recordings, stills, tables, volumes
from benchmarks.conformance.probe import Probe, Verdict, judge
from naflex_deploy.runtime.images.versions import pixel_versions

START, END = "<!-- conformance -->", "<!-- end of conformance -->"
ROOMS: dict[str, Callable[[Path], Iterator[Probe]]] = {
    "DICOM": dicoms.probes,
    "clip": clips.probes,
    "PDF": documents.probes,
    "volume": volumes.probes,
    "recording": recordings.probes,
    "table, shard": tables.probes,
    "still": stills.probes,
    "odd still": odd_stills.probes,
}
FORMULAS = ("tifffile", "its own", "TIFF 6.0", "DICOM PS3.3", "PNG 3", "JFIF", "OME", "NumPy")
"""References that are no viewer outside Python."""

VIEWERS = {
    "DCMTK": (["dcm2pnm", "--version"], r"v([\d.]+)"),
    "FFmpeg": (["ffmpeg", "-version"], r"version ([\d.]+)"),
    "Poppler": (["pdftoppm", "-v"], r"version ([\d.]+)"),
    "MuPDF": (["mutool", "-v"], r"version ([\d.]+)"),
    "Netpbm": (["pngtopnm", "-version"], r"Netpbm ([\d.]+)"),
    "libtiff": (["tiff2rgba", "-h"], r"Version ([\d.]+)"),
    "OpenJPEG": (["opj_decompress", "-h"], r"v(\d+\.\d+\.\d+)"),
    "libwebp": (["dwebp", "-version"], r"([\d.]+)"),
    "libheif": (["heif-info", "--help"], r"version: ([\d.]+)"),
    "dcm2niix": (["dcm2niix", "--version"], r"v([\d.]+)"),
    "GDAL": (["gdal_translate", "--version"], r"GDAL ([\d.]+)"),
    "Little CMS": (["tificc"], r"v([\d.]+)"),
    "GNU tar": (["tar", "--version"], r"([\d.]+)"),
    "libavif": (["avifdec", "--version"], r"Version: ([\d.]+)"),
}


def main(arguments: list[str]) -> int:
    lines, tally = [], {"right": 0, "refused": 0, "wrong": 0}
    outside = 0
    with tempfile.TemporaryDirectory() as work:
        for room, probes in ROOMS.items():
            folder = Path(work) / room
            folder.mkdir()
            for number, probe in zip(count(), probes(folder), strict=False):
                place = folder / f"reference-{number}"
                place.mkdir()
                verdict = _judged(probe, place)
                tally[verdict.verdict.split(":")[0]] += 1
                outside += not probe.by.startswith(FORMULAS)
                figures = ("-", "-") if verdict.largest is None else (str(verdict.largest), f"{verdict.mean:.2f}")
                lines.append(
                    f"| {room} | {probe.name} | {probe.by} | {figures[0]} | {figures[1]} | {verdict.verdict} |"
                )
                print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {_version(*how)}" for name, how in VIEWERS.items())
    summary = (
        f"{sum(tally.values())} probes, {outside} of them against viewers outside Python: {tally['right']} right, "
    )
    summary += f"{tally['refused']} refused by name, {tally['wrong']} wrong. Viewers: {versions}. Read here with "
    summary += ", ".join(f"{name} {number}" for name, number in pixel_versions().items()) + "."
    head = "| kind | probe | reference | largest | mean | |\n|---|---|---|---|---|---|\n"
    table = f"{START}\n{summary}\n\n{head}" + "\n".join(lines) + f"\n{END}"
    print(summary)
    for path in map(Path, arguments):
        text = path.read_text(encoding="utf-8")
        before, after = text.partition(START)[0], text.partition(END)[2]
        path.write_text(f"{before}{table}{after}", encoding="utf-8")
    return 1 if tally["wrong"] else 0


def _judged(probe: Probe, folder: Path) -> Verdict:
    try:
        return judge(probe, folder)
    except (RuntimeError, OSError) as error:
        return Verdict(f"wrong: no reference: {' '.join(str(error).split())[:120]}")


def _version(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    found = re.search(pattern, (done.stdout + done.stderr).decode(errors="replace"))
    return found[1] if found else "of unknown version"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
