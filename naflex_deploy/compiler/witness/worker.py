"""The process that runs the original: ``python -m naflex_deploy.compiler.witness.worker FOLDER``.

It reads ``request.json`` and ``images.npz`` of the folder, and writes ``answer.json`` and, where the original ran,
``outputs.npz``: for each image ``tokens/0``, ``pooled/0``, …, and ``texts``. It imports nothing of this package but the
modules beside it that say the same of themselves.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from naflex_deploy.compiler.witness import towers
from naflex_deploy.compiler.witness.original import NoOriginal, first_line, import_library

Results = dict[str, Any]


def main(folder: Path) -> None:
    import torch

    # The build goes on beside this process, and threads that wait for a core make both slower.
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    with np.load(folder / "images.npz") as file:
        images = [file[str(index)] for index in range(len(file.files))]
    try:
        name, results = (_transformers if request["library"] == "transformers" else _timm)(request, images)
    except NoOriginal as reason:
        answer = {"reason": str(reason)}
    else:
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in results.items()}
        np.savez(folder / "outputs.npz", **arrays)
        answer = {"original": name}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _transformers(request: dict[str, Any], images: list[Any]) -> tuple[str, Results]:
    path = Path(request["path"])
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") in towers.BY_TORCHVISION:
        import_library("torchvision")
    else:
        # The image processor of Pillow needs none, and one that was made for another torch does not import.
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    transformers = import_library("transformers")
    import torch
    from PIL import Image

    if towers.is_tower(config):
        return towers.run(transformers, config, request, images)
    model = _load(transformers, config, request).eval()
    processor = _processor(transformers, config, path)
    vision = getattr(model, "vision_model", model)
    hidden = _record(vision.encoder.layers)
    grey = vision.config.num_channels == 1
    results: Results = {}
    texts = _text_features(transformers, model, request) if request["texts"] or request["labels"] else {}
    pictures = [Image.fromarray(pixels).convert("L" if grey else "RGB") for pixels in images]
    inputs = processor(images=pictures, max_num_patches=request["tokens"], return_tensors="pt")
    with torch.inference_mode():
        found = vision(**inputs)
        logits = model(**inputs).logits if request["classes"] and not request["labels"] else None
    for index, count in enumerate(inputs["pixel_attention_mask"].sum(1).tolist()):
        tokens = found.last_hidden_state[index, :count]
        pooled = tokens.mean(0) if logits is not None or found.pooler_output is None else found.pooler_output[index]
        results[f"tokens/{index}"] = tokens
        results[f"pooled/{index}"] = pooled
        if request["labels"]:
            unit = torch.nn.functional.normalize(pooled, dim=-1)
            scale = model.logit_scale.detach().exp()
            results[f"logits/{index}"] = texts["labels"] @ unit * scale + model.logit_bias.detach()
        elif logits is not None:
            results[f"logits/{index}"] = logits[index]
        states = [(state[0] if isinstance(state, tuple) else state)[index, :count] for state in hidden]
        results |= _hidden(request, states, index, vision.post_layernorm)
    if "texts" in texts:
        results["texts"] = texts["texts"]
    return f"{type(model).__name__} of transformers {transformers.__version__}", results


def _load(transformers: Any, config: dict[str, Any], request: dict[str, Any]) -> Any:
    """The model by its class's own ``from_pretrained``, an adapter merged by peft."""
    import torch

    zero_shot = bool(request["labels"])
    stated = next(iter(config.get("architectures") or ()), "")
    if config.get("model_type") == "siglip2_vision_model":
        name = "Siglip2VisionModel"
    elif request["classes"] and not zero_shot:
        name = "Siglip2ForImageClassification"
    elif config.get("model_type") == "siglip2":
        name = "Siglip2Model" if stated in ("", "Siglip2Model") else stated
    else:
        raise NoOriginal(f"the image tower of a model of type '{config.get('model_type')}' is not loaded alone")
    options: dict[str, Any] = {"num_labels": request["classes"]} if name == "Siglip2ForImageClassification" else {}
    if options and len(config.get("id2label") or ()) == options["num_labels"]:
        options = {}
    try:
        model, loading = getattr(transformers, name).from_pretrained(
            request["path"], dtype=torch.float32, output_loading_info=True, **options
        )
    except Exception as error:
        raise NoOriginal(f"{name} of transformers does not load it: {first_line(error)}") from None
    adapted = bool(request["lora"])
    missing = sorted(key for key in loading["missing_keys"] if not (adapted and key.startswith("classifier.")))
    if missing:
        raise NoOriginal(f"{name} of transformers finds no weights for '{missing[0]}' and {len(missing) - 1} others")
    return _adapted(model, request)


def _adapted(model: Any, request: dict[str, Any]) -> Any:
    if not request["lora"]:
        return model
    peft = import_library("peft")
    try:
        return peft.PeftModel.from_pretrained(model, request["lora"]).merge_and_unload()
    except Exception as error:
        raise NoOriginal(f"peft does not load the adapter: {first_line(error)}") from None


def _processor(transformers: Any, config: dict[str, Any], path: Path) -> Any:
    """Pillow's processor with the directory's settings, or with its class's own where there are none."""
    if not any((path / name).exists() for name in ("processor_config.json", "preprocessor_config.json")):
        module = importlib.import_module("transformers.models.siglip2.image_processing_pil_siglip2")
        return module.Siglip2ImageProcessorPil(patch_size=(config.get("vision_config") or config).get("patch_size", 16))
    try:
        return transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    except Exception as error:
        raise NoOriginal(f"AutoImageProcessor of transformers does not load it: {first_line(error)}") from None


def _text_features(transformers: Any, model: Any, request: dict[str, Any]) -> Results:
    import torch
    from torch.nn.functional import normalize

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(request["path"])
    except Exception as error:
        raise NoOriginal(f"AutoTokenizer of transformers does not load it: {first_line(error)}") from None

    length = model.config.text_config.max_position_embeddings

    def features(texts: list[str]) -> Any:
        rows = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            found = model.get_text_features(**rows)
        return getattr(found, "pooler_output", found)

    results: Results = {}
    if request["texts"]:
        results["texts"] = features(list(request["texts"]))
    if request["labels"]:
        means = [normalize(features(list(texts)), dim=-1).mean(0) for texts in request["labels"]]
        results["labels"] = normalize(torch.stack(means), dim=-1)
    return results


def _timm(request: dict[str, Any], images: list[Any]) -> tuple[str, Results]:
    timm = import_library("timm")
    data = import_library("timm.data")
    import torch
    from PIL import Image

    path = request["path"]
    try:
        if request["name"]:
            model = timm.create_model(request["name"], checkpoint_path=path, num_classes=request["classes"])
        else:
            model = timm.create_model(f"local-dir:{path}", pretrained=True)
    except Exception as error:
        raise NoOriginal(f"timm does not load it: {first_line(error)}") from None
    model = _adapted(model, request).eval()
    config = data.resolve_model_data_config(model)
    embeds = model.embeds
    transform = data.create_transform(
        **{name: config[name] for name in ("input_size", "mean", "std", "interpolation")},
        naflex=True,
        patch_size=embeds.patch_size[0],
        max_seq_len=request["tokens"],
        patchify=embeds.is_linear,
        patchify_channels_last=embeds.channels_last,
    )
    hidden = _record(model.blocks)
    results: Results = {}
    for index, pixels in enumerate(images):
        entry = transform(Image.fromarray(pixels).convert("L" if embeds.in_chans == 1 else "RGB"))
        with torch.inference_mode():
            if embeds.is_linear:
                batch = {key: value[None] for key, value in entry.items()}
                valid = batch["patch_valid"]
                found = model.forward_features(batch["patches"], patch_coord=batch["patch_coord"], patch_valid=valid)
                tokens, valid = found["patches"], found["patch_valid"]
            else:
                tokens, valid = model.forward_features(entry[None]), None
            results[f"tokens/{index}"] = tokens[0]
            if model.global_pool:
                results[f"pooled/{index}"] = pooled = model.forward_head(tokens, pre_logits=True, patch_valid=valid)[0]
                if model.num_classes:
                    results[f"logits/{index}"] = model.head(pooled)
        results |= _hidden(request, [state[0] for state in hidden], index, model.norm)
        hidden.clear()
    return f"{type(model).__name__} of timm {timm.__version__}", results


def _record(blocks: Any) -> list[Any]:
    """A list that gets what each block returns."""
    found: list[Any] = []
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    return found


def _hidden(request: dict[str, Any], states: list[Any], index: int, norm: Any) -> Results:
    """The outputs ``tokens:-K`` and ``tokens:-K:norm`` of one image, from what each block gave for it."""
    import torch

    results: Results = {}
    for name in request["outputs"]:
        _, *form = name.split(":")
        if form:
            state = states[int(form[0])]
            with torch.inference_mode():
                results[f"{name}/{index}"] = norm(state) if len(form) > 1 else state
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]))
