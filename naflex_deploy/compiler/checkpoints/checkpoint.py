"""A checkpoint in our own terms, whatever it was written by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.compiler.model.attention import Attention, masked_attention
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT, fold_normalisation
from naflex_deploy.core.manifest import Scores
from naflex_deploy.core.preprocessing import Preprocessing


@dataclass(frozen=True)
class Original:
    """How the library that wrote a checkpoint loads it.

    Attributes:
        library: ``transformers`` or ``timm``.
        path: Directory of the model, or file of weights of the architecture ``name``.
        name: Of timm's registry, empty where the directory says it.
        lora: Directory of an adapter that peft merges.
    """

    library: str
    path: Path
    name: str = ""
    lora: Path | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model read from somewhere.

    Attributes:
        source: Where it was read from, for people and the manifest.
        architecture: Shape and options.
        weights: State of `PackedNaFlexViT`, float32, the projection taking normalised pixels.
        preprocessing: How the model wants its pixels.
        labels: Name of each class, empty where the model has no classifier or no names.
        scores: How logits become scores, see `core.manifest.Head`.
        origins: Where each value of ``preprocessing`` was found.
        prompts: Texts of each class, where the classifier was made of texts.
        original: How its own library loads it; ``None`` for what no library loads from files.
        left_out: Files of weights that lie beside those of the model and are no part of it.
        family: Kind of the vision-language model whose image tower this is; empty where it stands alone.
        note: What else a person should know of the outputs of that family.
        paired_embedding: [D, 2·P·P·C] projection of patches that span two frames of a clip, of which that of the
            weights is the sum; ``None`` where patches span one.
    """

    source: str
    architecture: Architecture
    weights: dict[str, Tensor]
    preprocessing: Preprocessing
    labels: tuple[str, ...] = field(default=())
    scores: Scores = "softmax"
    origins: Mapping[str, str] = field(default_factory=dict)
    prompts: tuple[tuple[str, ...], ...] = ()
    original: Original | None = None
    left_out: tuple[str, ...] = ()
    family: str = ""
    note: str = ""
    paired_embedding: Tensor | None = None

    def for_clips(self) -> Checkpoint:
        """The same model with patches that span two frames of a clip; as it is, where they span one."""
        if self.paired_embedding is None or self.preprocessing.clip is None:
            return self
        return replace(
            self,
            architecture=replace(self.architecture, frames=2),
            weights=self.weights | {"embed.weight": self.paired_embedding},
            preprocessing=self.preprocessing.model_copy(update={"frames": 2}),
        )

    def model(
        self, outputs: Sequence[str] = ("pooled", "tokens"), attention: Attention = masked_attention
    ) -> PackedNaFlexViT:
        """The packed model with these weights, the normalisation folded in, ready to run."""
        with torch.device("meta"):
            model = PackedNaFlexViT(self.architecture, outputs, attention)
        model.load_state_dict(self.weights, assign=True)
        embed = torch.nn.Linear(model.embed.in_features, model.embed.out_features)
        embed.load_state_dict(model.embed.state_dict())
        fold_normalisation(embed, self.preprocessing.mean, self.preprocessing.std)
        model.embed = embed
        return model.eval().requires_grad_(False)

    def digest(self) -> str:
        """sha256 over the weights' names, shapes and values, in name order."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()
