"""timm's NaFlexVit options, under timm's names, and what each means for the packed model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from naflex_deploy.compiler.model.architecture import Architecture, Pooling, Positions, Rope
from naflex_deploy.core.errors import CheckpointError, nearest

# Options that act in training only, or that change nothing of the result.
IRRELEVANT = {
    *("attn_drop_rate", "drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"),
    *("weight_init", "fix_init", "dynamic_img_pad", "enable_patch_interpolator", "use_key_only_attn_mask"),
    *("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords", "num_classes", "pretrained_cfg_overlay"),
}
ALLOWED: dict[str, tuple[Any, ...]] = {
    "in_chans": (1, 3),
    "pos_embed": ("learned", "factorized", "none", ""),
    "pos_embed_interp_mode": ("bilinear", "bicubic"),
    "rope_type": ("", "none", "axial", "mixed", "dinov3", "mrope"),
    "rope_grid_indexing": ("ij", "xy"),
    "global_pool": ("", "avg", "avgmax", "max", "token", "map"),
    "embed_proj_type": ("linear", "conv"),
    "input_norm_layer": (None,),
    "embed_norm_layer": (None, "layernorm"),
    "norm_layer": (None, "layernorm"),
    "act_layer": (None, "gelu", "gelu_tanh"),
    "block_fn": (None,),
    "mlp_layer": (None,),
    "attn_layer": (None, "", "attn"),
    "attn_type": ("standard", "eva", "rope"),
}
POOLINGS: dict[str, Pooling] = {
    "": "none",
    "avg": "mean",
    "avgmax": "mean_max",
    "max": "max",
    "token": "class",
    "map": "map",
}
LARGEST_TABLE = 128
"""Rows or columns of a position table: C-RADIO's, and beyond what any grid needs."""


@dataclass(frozen=True)
class TimmConfig:
    """The options of a NaFlexVit that reach its graph. Names, meaning and defaults are timm's (1.0.31).

    ``norm_eps`` alone is no option there, but a property of the norm class that a model was made with.
    """

    patch_size: int = 16
    in_chans: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    scale_mlp_norm: bool = False
    num_kv_heads: int | tuple[int, ...] | None = None
    qkv_bias: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    scale_attn_inner_norm: bool = False
    init_values: float | None = None
    class_token: bool = False
    reg_tokens: int = 0
    pos_embed: str = "learned"
    pos_embed_grid_size: tuple[int, int] | None = (16, 16)
    pos_embed_interp_mode: str = "bicubic"
    pos_embed_ar_preserving: bool = False
    pos_embed_antialias: bool = True
    pos_embed_align_corners: bool = False
    pos_embed_use_grid_sample: bool = False
    rope_type: str = ""
    rope_temperature: float = 10000.0
    rope_ref_feat_shape: tuple[int, int] | None = None
    rope_grid_offset: float = 0.0
    rope_grid_indexing: str = "ij"
    rope_rotate_half: bool = False
    rope_mrope_section: tuple[int, int, int] | None = None
    patchify_channels_last: bool = True
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    global_pool: str = "map"
    pool_include_prefix: bool = False
    attn_pool_num_heads: int | None = None
    attn_pool_mlp_ratio: float | None = None
    embed_proj_type: str = "linear"
    embed_norm_layer: str | None = None
    act_layer: str | None = None
    attn_type: str = "standard"
    attn_gated: bool = False
    swiglu_mlp: bool = False
    swiglu_align_to: int = 0
    qkv_fused: bool = True
    attn_only_layer_scale: bool = False
    norm_eps: float = 1e-6

    @classmethod
    def of(cls, options: Mapping[str, Any], source: str) -> TimmConfig:
        """Check options by name and value.

        Raises:
            CheckpointError: An option is unknown, or its value has no counterpart here.
        """
        known = {field.name for field in fields(cls)}
        for name, value in options.items():
            if isinstance(value, dict):
                raise CheckpointError(f"{source}: {name}: expected no object, found {value!r}")
            if name not in known | IRRELEVANT | ALLOWED.keys() | {"img_size"}:
                raise CheckpointError(f"{source}: unknown option '{name}' = {value!r}", hint=nearest(name, known))
            allowed = ALLOWED.get(name, (value,))
            if value not in allowed:
                raise CheckpointError(
                    f"{source}: {name} = {value!r} is not supported",
                    hint=f"supported: {', '.join(repr(choice) for choice in allowed)}",
                )
        for field in fields(cls):
            _check_type(field.name, options.get(field.name, field.default), field.default, source)
        values = {name: _frozen(value) for name, value in options.items() if name in known}
        if "patch_size" in values:
            values["patch_size"] = _square(values["patch_size"], "patch_size", source)
        if values.get("pos_embed_grid_size", (16, 16)) is None and options.get("img_size") is not None:
            side = _pair(options["img_size"])
            patch = values.get("patch_size", cls.patch_size)
            values["pos_embed_grid_size"] = (side[0] // patch, side[1] // patch)
        config = cls(**values)
        config._check(source, classes=options.get("num_classes", 0))
        return config

    def _check(self, source: str, classes: int) -> None:
        grid = self.pos_embed_grid_size
        if self.pos_embed in ("learned", "factorized") and grid is None:
            raise CheckpointError(f"{source}: pos_embed_grid_size = None", hint="give it, or img_size")
        if grid is not None and not all(1 <= side <= LARGEST_TABLE for side in grid):
            raise CheckpointError(
                f"{source}: pos_embed_grid_size = {grid} is not supported",
                hint=f"tables of 1x1 to {LARGEST_TABLE}x{LARGEST_TABLE} are",
            )
        if grid is not None and grid[0] != grid[1] and self.pos_embed == "learned" and self.pos_embed_ar_preserving:
            # timm leaves the table as it is for the one grid of its own size, and resizes to a square for all others.
            raise CheckpointError(
                f"{source}: pos_embed_ar_preserving = True with pos_embed_grid_size = {grid} is not supported",
                hint="square tables are",
            )
        if not self.global_pool and (classes or (self.final_norm and self.fc_norm)):
            option = f"num_classes = {classes}" if classes else "fc_norm = True"
            raise CheckpointError(
                f"{source}: {option} with global_pool = '' is not supported", hint="without pooling, tokens are all"
            )
        if self.rope == "mrope" and (self.rope_mrope_section is None or self.rope_grid_indexing != "ij"):
            raise CheckpointError(
                f"{source}: rope_type = 'mrope' is not supported with rope_mrope_section = {self.rope_mrope_section}, "
                f"rope_grid_indexing = '{self.rope_grid_indexing}'",
                hint="timm takes three numbers and 'ij'",
            )
        if self.rope == "mixed" and self.rope_rotate_half:
            raise CheckpointError(f"{source}: rope_rotate_half = True with rope_type = 'mixed' is not supported")
        if self.num_kv_heads is not None and (self.qkv_fused or not self.rope_attention):
            raise CheckpointError(
                f"{source}: num_kv_heads = {self.num_kv_heads} is not supported with attn_type = '{self.attn_type}', "
                f"qkv_fused = {self.qkv_fused}",
                hint="timm shares key and value heads with attn_type = 'rope', qkv_fused = False alone",
            )

    @property
    def rope(self) -> str:
        """The rotary embedding, '' for none."""
        return "" if self.rope_type == "none" else self.rope_type

    @property
    def eva_block(self) -> bool:
        """timm takes its EVA block, whose tensors have other names."""
        return (
            self.attn_type in ("eva", "rope")
            or bool(self.rope)
            or self.swiglu_mlp
            or self.attn_gated
            or self.attn_only_layer_scale
            or self.num_kv_heads is not None
        )

    @property
    def rope_attention(self) -> bool:
        """In an EVA block: timm's AttentionRope rather than its EvaAttention, whose keys have no bias."""
        return self.attn_type == "rope" or (self.attn_type == "standard" and bool(self.rope))

    @property
    def mlp_width(self) -> int:
        """Hidden channels of a block's MLP."""
        width = int(self.embed_dim * self.mlp_ratio)
        return width + (-width % self.swiglu_align_to if self.swiglu_mlp and self.swiglu_align_to else 0)

    def kv_heads(self, block: int) -> int:
        """Key and value heads of a block."""
        per_block = self.num_kv_heads
        return (per_block if isinstance(per_block, int) else per_block[block]) if per_block else self.num_heads

    def architecture(self, classes: int) -> Architecture:
        """The same model in our own terms.

        Args:
            classes: Outputs of the classifier, 0 for none.
        """
        pooled_norm = self.global_pool == "avg" if self.fc_norm is None else self.fc_norm
        pool_mlp = int(self.embed_dim * (self.attn_pool_mlp_ratio or self.mlp_ratio))
        return Architecture(
            width=self.embed_dim,
            depth=self.depth,
            heads=self.num_heads,
            mlp_width=self.mlp_width,
            patch_size=self.patch_size,
            positions=self._positions(),
            norm_eps=self.norm_eps,
            activation="gelu_tanh" if self.act_layer == "gelu_tanh" else "gelu",
            pooling=POOLINGS[self.global_pool],
            classes=classes,
            class_token=self.class_token,
            registers=self.reg_tokens,
            pool_prefix=self.pool_include_prefix,
            pool_heads=self.attn_pool_num_heads,
            pool_mlp_width=pool_mlp,
            patch_norm=self.embed_norm_layer is not None,
            pre_norm=self.pre_norm,
            final_norm=("pooled" if pooled_norm else "tokens") if self.final_norm else "none",
            gated_mlp=self.swiglu_mlp,
            mlp_norm=self.scale_mlp_norm,
            qk_norm=self.qk_norm,
            attention_norm=self.scale_attn_inner_norm,
            attention_gate=self.attn_gated,
            rope=self._rope(),
        )

    def _positions(self) -> Positions | None:
        grid = self.pos_embed_grid_size
        if self.pos_embed in ("none", "") or grid is None:
            return None
        if self.pos_embed == "factorized":
            return Positions(grid, antialias=False, square=self.pos_embed_ar_preserving, factorized=True)
        return Positions(
            grid,
            interpolation="bilinear" if self.pos_embed_interp_mode == "bilinear" else "bicubic",
            antialias=self.pos_embed_antialias and not self.pos_embed_use_grid_sample,
            align_corners=self.pos_embed_align_corners,
            square=self.pos_embed_ar_preserving,
        )

    def _rope(self) -> Rope | None:
        column_first = self.rope_grid_indexing == "xy"
        match self.rope:
            case "axial":
                reference, offset = self.rope_ref_feat_shape, self.rope_grid_offset
                return Rope("axial", self.rope_temperature, reference, offset, column_first)
            case "dinov3":
                return Rope("dinov3", self.rope_temperature, None, self.rope_grid_offset, column_first)
            case "mrope":
                _, *sections = self.rope_mrope_section or (0, 0, 0)
                return Rope("mrope", self.rope_temperature, sections=(sections[0], sections[1]))
            case "mixed":
                return Rope("mixed", self.rope_temperature, column_first=column_first)
            case _:
                return None


def _check_type(name: str, value: Any, default: Any, source: str) -> None:
    """An option is of its default's kind; those without a default, and pairs, are checked where they are used."""
    if name == "patch_size" or default is None or isinstance(default, tuple):
        return
    kinds: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
    right = isinstance(value, kinds[type(default)]) and (type(default) is bool or not isinstance(value, bool))
    if not right:
        raise CheckpointError(f"{source}: {name}: expected {type(default).__name__}, found {value!r}")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _square(value: Any, option: str, source: str) -> int:
    height, width = _pair(value)
    if height != width:
        raise CheckpointError(f"{source}: {option} = {(height, width)} is not supported", hint="square patches are")
    return height
