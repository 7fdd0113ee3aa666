"""Embedding on Ray Data without Ray: a stand-in for a dataset runs the workers one after another in this process."""

from __future__ import annotations

import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from naflex_deploy.core.errors import OutputError
from naflex_deploy.serving.ray.data import EmbedImages, embed_to_parquet
from tests.serving.ray.support import BAD, IMAGES, assert_complete
from tests.serving.support import vector
from tests.support.manifests import edit


class ActorPoolStrategy:
    def __init__(self, *, size):
        assert size > 0


class Dataset:
    """Rows, and the class that maps batches of one row, as Ray makes and calls it."""

    def __init__(self, rows):
        self._rows = rows

    def map_batches(self, kind, *, fn_constructor_args, batch_size, compute, **options):
        assert batch_size == 1
        assert isinstance(compute, ActorPoolStrategy)
        worker = kind(*fn_constructor_args)
        batches = [worker({name: np.array([value]) for name, value in row.items()}) for row in self._rows]
        return Dataset([{name: values[0] for name, values in batch.items()} for batch in batches])

    def take_all(self):
        return self._rows


@pytest.fixture
def ray(monkeypatch):
    data = SimpleNamespace(
        from_items=lambda rows, override_num_blocks: Dataset(rows), ActorPoolStrategy=ActorPoolStrategy
    )
    monkeypatch.setitem(sys.modules, "ray.data", data)


def changed(bundle, folder, change):
    """A copy of a bundle whose manifest says something else; its weights, and thus its model, are the same."""
    shutil.copytree(bundle, folder)
    edit(folder, change)
    return folder


def test_a_batch_has_a_row_for_every_input(bundle, paths):
    embed = EmbedImages(str(bundle), column="image")
    found = embed({"image": np.array([path.read_bytes() for path in paths], object), "id": np.arange(20)})
    assert found["id"].tolist() == list(range(20))
    assert {i for i, error in enumerate(found["error"]) if error} == BAD
    for i, image in enumerate(IMAGES):
        expected = np.zeros(8) if i in BAD else vector(image)
        np.testing.assert_allclose(found["embedding"][i], expected, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_with_the_shards_that_are_missing(ray, bundle, paths, tmp_path):
    output = tmp_path / "vectors"
    totals = embed_to_parquet(paths, bundle, output, shard=6)
    assert (totals.embedded, totals.rejected, totals.shards) == (18, 2, 4)
    assert_complete(output, paths)
    kept = (output / "part-000000.parquet").stat().st_mtime_ns
    (output / "part-000002.parquet").unlink()
    again = embed_to_parquet(paths, bundle, output, shard=6)
    assert (again.embedded, again.shards, again.shards_before) == (6, 1, 3)
    assert (output / "part-000000.parquet").stat().st_mtime_ns == kept
    assert_complete(output, paths)
    with pytest.raises(OutputError, match="inputs, count differ"):
        embed_to_parquet(paths[1:], bundle, output, shard=6)
    with pytest.raises(OutputError, match="shard differ"):
        embed_to_parquet(paths, bundle, output, shard=7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: manifest["variants"][0].update(precision="fp16"), 'variant.precision was "fp32", is "fp16"'),
        (lambda manifest: manifest["config"]["image"].update(dpi=77), "image.dpi was"),
    ],
    ids=["precision", "image"],
)
def test_a_run_does_not_go_on_with_an_engine_of_other_vectors(ray, bundle, paths, tmp_path, change, said):
    output = tmp_path / "vectors"
    embed_to_parquet(paths[:4], bundle, output, shard=2)
    lost = output / "part-000001.parquet"
    lost.unlink()
    with pytest.raises(OutputError, match=re.escape(said)):
        embed_to_parquet(paths[:4], changed(bundle, tmp_path / "changed", change), output, shard=2)
    assert not lost.exists()
    assert embed_to_parquet(paths[:4], bundle, output, shard=2).shards == 1


@pytest.mark.parametrize("name", ["plan.json", "key.json"])
def test_a_damaged_or_lost_record_is_named(ray, bundle, paths, tmp_path, name):
    output = tmp_path / "vectors"
    embed_to_parquet(paths[:2], bundle, output, shard=1)
    content = (output / name).read_bytes()
    for damaged in (content[:9], b"[]", b"\xff"):
        (output / name).write_bytes(damaged)
        with pytest.raises(OutputError, match=re.escape(f"{output / name} is damaged")):
            embed_to_parquet(paths[:2], bundle, output, shard=1)
    (output / name).unlink()
    with pytest.raises(OutputError, match="does not say what its vectors were made with"):
        embed_to_parquet(paths[:2], bundle, output, shard=1)
