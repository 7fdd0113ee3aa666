"""vLLM's and SGLang's own code reads what is handed over to them.

Both need a GPU to start. Here the definitions that parse a request are taken out of their published wheels by name and
run; the rest of the packages, and what they import, is left out.
"""

from __future__ import annotations

import ast
import base64
import copy
import io
import logging
import subprocess
import sys
import types
import typing
from abc import ABC, abstractmethod
from collections import UserDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
import transformers
import typing_extensions

from naflex_deploy.runtime.results.handover import ImageTokens, for_sglang, for_vllm
from naflex_deploy.runtime.results.result import Result

VLLM, SGLANG, MSGSPEC = "vllm==0.33.0", "sglang==0.5.23", "msgspec==0.21.1"
GRIDS = ((4, 6), (4, 4), (6, 4))
KNOWN: dict[str, Any] = {
    **{name: getattr(typing, name) for name in typing.__all__},
    **{value.__name__: value for value in (ABC, UserDict, defaultdict, Mapping, Sequence, Enum)},
    **{value.__name__: value for value in (abstractmethod, dataclass, auto, cached_property, partial, accumulate)},
    "TypeVar": typing_extensions.TypeVar,
    "logger": logging.getLogger(__name__),
    "copy": copy,
    "np": np,
    "torch": torch,
    "transformers": transformers,
}
"""What the definitions find in their modules."""


class Wheel:
    """Definitions of a published package, each run without the module that it is in."""

    def __init__(self, requirement: str, folder: Path, **known: Any) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "-d", folder, requirement], check=True)
        (self.path,) = folder.glob(f"{requirement.partition('=')[0]}-*.whl")
        self.space = types.ModuleType(f"taken_from_{self.path.stem.partition('-')[0]}")
        sys.modules[self.space.__name__] = self.space  # dataclasses look their module up
        vars(self.space).update(KNOWN | known)

    def tree(self, module: str) -> ast.Module:
        with ZipFile(self.path) as file:
            return ast.parse(file.read(f"{module}.py"))

    def take(self, module: str, *names: str) -> None:
        """Run definitions of a module, in their order."""
        wanted = [node for node in self.tree(module).body if _name(node) in names]
        assert sorted(map(_name, wanted)) == sorted(names)
        self.run(*wanted)

    def run(self, *nodes: ast.stmt) -> None:
        text = ast.unparse(ast.Module(list(nodes), []))
        exec(compile(f"from __future__ import annotations\n{text}", str(self.path), "exec"), vars(self.space))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.space, name)


def _name(node: ast.stmt) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", node)
    return str(getattr(target, "name", getattr(target, "id", "")))


@pytest.fixture
def images() -> list[ImageTokens]:
    rng = np.random.default_rng(0)

    def result(index: int, h: int, w: int) -> Result:
        names = ("vlm", "deepstack:0", "deepstack:1")
        outputs = {name: rng.normal(size=(h // 2, w // 2, 8)).astype(np.float32) for name in names}
        return Result(index, 0, str(index), grid_hw=(h, w), outputs=outputs)

    return [ImageTokens.of([result(index, h, w)]) for index, (h, w) in enumerate(GRIDS)]


@pytest.mark.integrations
@pytest.mark.parametrize("count", [1, 2, 3])
def test_vllm_finds_the_tokens_of_each_image(
    images: list[ImageTokens], count: int, vllm: Wheel, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [for_vllm(image)["image_embeds"] for image in images[:count]]
    tensors = [
        {key: torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True) for key, text in part.items()}
        for part in parts
    ]
    fields = vllm._create_qwen2vl_field_factory(2)
    config = SimpleNamespace(get_inputs_embeds_size=lambda: 8)
    processor = SimpleNamespace(
        _get_mm_fields_config=lambda inputs, options: fields(inputs),
        info=SimpleNamespace(ctx=SimpleNamespace(model_config=config)),
    )
    merged = vllm._merge_embeds(tensors, processor)
    assert not caplog.records  # of a fault that it passes over
    found = vllm.MultiModalKwargsItems.from_hf_inputs(transformers.BatchFeature(merged), fields(merged))["image"]
    for item, image in zip(found, images[:count], strict=True):
        np.testing.assert_array_equal(item["image_embeds"].data, image.features("float16"))
        assert item["image_grid_thw"].data.tolist() == [1, *image.grids[0]]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    def is_list_of(value: object, kind: type, check: str = "first") -> bool:
        return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)

    wheel = Wheel(
        VLLM,
        tmp_path_factory.mktemp("vllm"),
        is_list_of=is_list_of,
        VLLMValidationError=ValueError,
        BaseMultiModalProcessor=Any,
        Callable=typing.Callable,
    )
    fields = [f"MultiModal{kind}" for kind in ("BatchedField", "FlatField", "SharedField", "FieldConfig", "FieldElem")]
    items = ("MultiModalKwargsItem", "MultiModalKwargsItems")
    wheel.take("vllm/multimodal/inputs", "BaseMultiModalField", *fields, *items, "_I")
    wheel.take("vllm/renderers/chat_utils/item_tracker", "_BatchedSingleItemField", "_detect_field", "_merge_embeds")
    wheel.take("vllm/model_executor/models/qwen2_vl", "_create_qwen2vl_field_factory")
    return wheel


@pytest.mark.integrations
@pytest.mark.parametrize("count", [1, 3])
def test_sglang_finds_the_tokens_of_a_request(images: list[ImageTokens], count: int, sglang: Wheel) -> None:
    """As docs/vlm.md joins the images of a request to one item."""
    parts = [for_sglang(image) for image in images[:count]]
    joined = ("precomputed_embeddings", "image_grid_thw")
    item = parts[0] | {key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in joined}
    spans = [[9] * image.placeholders for image in images[:count]]
    ids = [1, *(token for span in spans for token in (2, *span, 3)), 4]
    processor = sglang.BaseMultimodalProcessor()
    processor.validate_mm_data([item])
    assert processor._all_mm_data_is_preprocessed([item])
    output = SimpleNamespace(
        input_ids=ids, images=[item], organize_results=lambda: [(sglang.Modality.from_str("IMAGE"), item)]
    )
    tokens = SimpleNamespace(get_token_id_by_modality=lambda modality: 9)
    items, found_ids, _ = processor.process_and_combine_mm_data(output, tokens)
    assert found_ids.tolist() == ids
    offsets = [offset for each in items for offset in each.offsets]
    assert [last - first + 1 for first, last in offsets] == [image.placeholders for image in images[:count]]
    embedding = sglang._get_precomputed_embedding(items, [0, len(items)], [0], [len(ids)], [offsets])
    np.testing.assert_array_equal(embedding, np.concatenate([image.features("float16") for image in images[:count]]))


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wheel]:
    folder = tmp_path_factory.mktemp("sglang")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "library", MSGSPEC]
    subprocess.run(command, check=True)
    sys.path.append(str(folder / "library"))
    import msgspec

    handle = type("CudaIpcTensorTransportProxy", (), {})
    digits = (1 << 64) - 1
    wheel = Wheel(
        SGLANG,
        folder,
        msgspec=msgspec,
        host_offload_event=None,
        CudaIpcTensorTransportProxy=handle,
        _MM_HASH_MASK=digits,
    )
    wheel.take("sglang/srt/multimodal/modality", "Modality", "MultimodalInputFormat")
    wheel.take("sglang/srt/managers/schedule_batch", "MultimodalDataValue", "MultimodalDataItem")
    wheel.take("sglang/srt/managers/mm_schedule", "get_embedding_chunk", "_get_precomputed_embedding")
    splitting = ("_try_simple_split", "_get_length", "_is_rank2_grid", "_slice_value", "_slice_model_data")
    wheel.take("sglang/srt/managers/mm_utils", "get_new_expanded_mm_items", *splitting)
    wheel.run(_processor(wheel.tree("sglang/srt/multimodal/processors/base_processor")))
    with pytest.MonkeyPatch.context() as patch:  # it imports this module when it is called
        for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
            package = types.ModuleType(name)
            package.__path__ = []
            patch.setitem(sys.modules, name, package)
        patch.setitem(sys.modules, "sglang.srt.managers.mm_utils", wheel.space)
        yield wheel


METHODS = (
    "_get_preprocessed_input_format",
    "_is_preprocessed_input",
    "_all_mm_data_is_preprocessed",
    "_validate_one_modality",
    "validate_mm_data",
    "collect_mm_items_from_processor_output",
    "process_and_combine_mm_data",
    "get_mm_items_offset",
    "get_mm_item_offsets",
    "_ensure_input_ids_is_tensor",
)


def _processor(tree: ast.Module) -> ast.ClassDef:
    """SGLang's processor of every model, with the methods that a request of this form goes through."""
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "BaseMultimodalProcessor"]
    found.body = [node for node in found.body if _name(node) in METHODS]
    assert len(found.body) == len(METHODS)
    rest = """
FEATURE_NAMES = ["pixel_values"]
ATTR_NAME_TO_MODALITY = {"image_grid_thw": Modality.IMAGE}
_resolve_processor = lambda self, processor: (None, None)
_finalize_mm_items = lambda self, items, images: items
"""
    found.bases, found.body = [], [*found.body, *ast.parse(rest).body]
    return found
