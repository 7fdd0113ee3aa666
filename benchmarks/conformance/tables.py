"""Images in tables and shards against Netpbm, which reads the files that went in; GNU tar unpacks shards."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from benchmarks.conformance.probe import Probe, pnm, run

BY = "Netpbm pngtopnm"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def probes(folder: Path) -> Iterator[Probe]:
    contents = []
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        contents.append((folder / f"{number}.png").read_bytes())
    one, two = contents[:2]
    paths = [{"bytes": None, "path": f"{number}.png"} for number in range(3)]
    columns: dict[str, Any] = {
        "struct": pa.array([{"bytes": item, "path": "x.png"} for item in contents], IMAGE),
        "struct of paths alone": pa.array(paths, IMAGE),
        "list of structs": pa.array([[{"bytes": one, "path": None}, {"bytes": two, "path": None}]], pa.list_(IMAGE)),
        "binary": pa.array(contents, pa.binary()),
        "large_binary": pa.array(contents, pa.large_binary()),
        "binary_view": pa.array(contents, pa.binary_view()),
        "dictionary": pa.array([one, two, one], pa.binary()).dictionary_encode(),
        "text of paths": pa.array([f"{number}.png" for number in range(3)]),
    }
    for name, column in columns.items():
        path = folder / f"{name.replace(' ', '-')}.parquet"
        parquet.write_table(pa.table({"image": column}), path)
        inside = name == "list of structs"
        place = {"frame": 1} if inside else {"entry": 1}
        yield Probe(f"table, {name}", path, _netpbm(folder, 1), BY, 0.0, **place)
    pair = folder / "pair.parquet"
    parquet.write_table(pa.table({"left": pa.array([one]), "right": pa.array([two])}), pair)
    yield Probe("table, column named after it", Path(f"{pair}::right"), _netpbm(folder, 1), BY, 0.0)
    yield Probe("table, two columns and none named", pair, _netpbm(folder, 1), BY, 0.0)
    shard = folder / "shard.tar"
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")):
        shard = folder / f"shard.{suffix}"
        with tarfile.open(shard, mode) as archive:  # type: ignore[call-overload, unused-ignore]
            archive.add(folder / "0.png", "a.png")
            archive.add(folder / "1.png", "._b.png")
            archive.add(folder / "2.png", "c.PNG")
            link = tarfile.TarInfo("d.png")
            link.type, link.linkname = tarfile.LNKTYPE, "a.png"
            archive.addfile(link)
        for entry, name in enumerate(("a.png", "c.PNG", "d.png")):
            yield Probe(f"{suffix}, {name}", shard, _tar(shard, name), f"GNU tar, {BY}", 0.0, entry=entry)


def _netpbm(folder: Path, number: int) -> Any:
    return lambda _: pnm(run("pngtopnm", folder / f"{number}.png"))


def _tar(shard: Path, member: str) -> Any:
    def reference(folder: Path) -> Any:
        run("tar", "-xf", shard, "-C", folder)
        return pnm(run("pngtopnm", folder / member))

    return reference
