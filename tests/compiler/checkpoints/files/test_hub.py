"""Only what is read is downloaded, from a stand-in of the hub on loopback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.files.hub import download
from naflex_deploy.core.errors import CheckpointError, NoCheckpointError
from tests.support.hub import serving
from tests.support.siglip2 import small


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories: a model among much else, one in shards, one whose files leave the choice open."""
    root = tmp_path_factory.mktemp("hub")
    model = small(Siglip2VisionModel, num_hidden_layers=1)
    model.save_pretrained(root / "org/model")
    model.save_pretrained(root / "org/shards", max_shard_size="300KB")
    for name in ("README.md", "pytorch_model.bin", "model_ema.safetensors", "tokenizer.json", "onnx/model.onnx"):
        path = root / "org/model" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"name": "{name}"}}')
    (root / "org/model/preprocessor_config.json").write_text("{}")
    (root / "org/shards/model-00007-of-00009.safetensors").write_bytes(b"of an older save")
    shutil.copytree(root / "org/model", root / "org/open")
    (root / "org/open/model.safetensors").rename(root / "org/open/best.safetensors")
    (root / "org/empty").mkdir()
    return root


def test_only_what_is_read_is_downloaded(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path) as hub:
        checkpoint = read("hf:org/model")
        assert sorted(hub.fetched) == ["config.json", "model.safetensors", "preprocessor_config.json"]
        assert checkpoint.source == "hf:org/model"
        assert checkpoint.digest() == read(root / "org/model").digest()
        hub.fetched.clear()
        read("hf:org/model")
        assert hub.fetched == []
        download("org/model", texts=True)
        assert hub.fetched == ["tokenizer.json"]


def test_shards_are_those_that_the_index_names(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path) as hub:
        assert read("hf:org/shards").digest() == read(root / "org/model").digest()
        assert "model-00007-of-00009.safetensors" not in hub.fetched
        assert "model.safetensors.index.json" in hub.fetched


def test_without_a_network_the_cache_is_read(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path) as hub:
        expected = read("hf:org/model").digest()
        hub.answer = lambda request: request.connection.close()  # type: ignore[method-assign]
        assert read("hf:org/model").digest() == expected
        with pytest.raises(NoCheckpointError, match="hf:org/shards could not be downloaded"):
            read("hf:org/shards")


def test_what_cannot_be_chosen_is_not_downloaded(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path) as hub:
        with pytest.raises(CheckpointError, match=r"several files may be the model.*best\.safetensors, model_ema"):
            read("hf:org/open")
        assert hub.fetched == ["config.json"]
        with pytest.raises(NoCheckpointError, match=r"hf:org/empty: no config\.json there"):
            read("hf:org/empty")
        with pytest.raises(NoCheckpointError, match="hf:org/none could not be downloaded: RepositoryNotFoundError"):
            read("hf:org/none")
