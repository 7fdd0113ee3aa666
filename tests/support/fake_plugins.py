"""A ``tensorrt`` with just its ``plugin`` module: takes registrations as the real one does, and builds from them.

The rules that it holds registrations to are those of TensorRT 10.16: tensors before attributes, attributes of builtin
types, one type for each tensor and output, an ahead-of-time function of (tensors, attributes, outputs, tactic).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

ATTRIBUTES = (int, float, bool, str, bytes)
LAUNCH = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")


class Expr:
    """A dimension: known, but only through what the real class has."""

    def __init__(self, value: int | Expr) -> None:
        self._value: int = value._value if isinstance(value, Expr) else value

    def __sub__(self, other: int) -> Expr:
        return Expr(self._value - other)

    def constant_value(self) -> int:
        return self._value


class SymInt32(Expr):
    pass


class SymIntExprs(list[SymInt32]):
    @classmethod
    def from_tuple(cls, values: Sequence[SymInt32]) -> SymIntExprs:
        assert all(isinstance(value, SymInt32) for value in values)
        return cls(values)


@dataclass
class TensorDesc:
    shape_expr: list[Expr]
    dtype: str

    def like(self) -> TensorDesc:
        return TensorDesc(list(self.shape_expr), self.dtype)


@dataclass
class AutoTuneCombination:
    types: str
    layouts: str


class KernelLaunchParams:
    def __init__(self) -> None:
        for name in LAUNCH:
            setattr(self, name, 0 if name == "shared_mem" else 1)

    def __setattr__(self, name: str, value: int | Expr) -> None:
        assert name in LAUNCH, name
        super().__setattr__(name, SymInt32(value))


@dataclass
class Plugin:
    """One registration.

    Attributes:
        tensors, attributes: Names in order; attributes with their types.
    """

    describe: Callable[..., TensorDesc]
    tensors: list[str]
    attributes: dict[str, type]
    formats: Callable[..., list[AutoTuneCombination]] | None = None
    compile: Callable[..., Any] | None = None

    def build(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], **attributes: object) -> Built:
        """What the builder does for one node."""
        assert self.formats is not None
        assert self.compile is not None
        assert list(attributes) == list(self.attributes)
        assert all(type(value) is self.attributes[name] for name, value in attributes.items())
        inputs = [TensorDesc([Expr(n) for n in shape], dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        output = self.describe(*inputs, **attributes)
        (combination,) = self.formats(*inputs, (output,))
        types = [one.strip().split("|") for one in combination.types.split(",")]
        assert len(types) == len(inputs) + 1
        allowed = {tuple(one[min(k, len(one) - 1)] for one in types) for k in range(max(map(len, types)))}
        assert (*dtypes, output.dtype) in allowed
        name, ptx, launch, integers = self.compile(*inputs, *attributes.values(), (output,), 0)
        assert isinstance(integers, SymIntExprs)
        sizes = {key: getattr(launch, key).constant_value() for key in LAUNCH}
        shape = tuple(dim.constant_value() for dim in output.shape_expr)
        return Built(name, ptx, sizes, [one.constant_value() for one in integers], shape, output.dtype)


@dataclass
class Built:
    """A kernel as an engine embeds it, and the output it fills."""

    name: str
    ptx: str
    launch: dict[str, int]
    integers: list[int]
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Library:
    """The modules, and what was registered with them."""

    plugins: dict[str, Plugin] = field(default_factory=dict)

    def modules(self) -> dict[str, ModuleType]:
        root, module = ModuleType("tensorrt"), ModuleType("tensorrt.plugin")
        vars(root).update(float16="FP16", bfloat16="BF16", float32="FP32", plugin=module)
        own = (TensorDesc, AutoTuneCombination, KernelLaunchParams, SymInt32, SymIntExprs)
        vars(module).update({one.__name__: one for one in own})
        vars(module).update(register=self.register, autotune=self.autotune, aot_impl=self.aot_impl, cdiv=self.cdiv)
        return {"tensorrt": root, "tensorrt.plugin": module}

    def register(self, identifier: str) -> Callable[[Callable[..., TensorDesc]], object]:
        def decorate(describe: Callable[..., TensorDesc]) -> object:
            signature = inspect.signature(describe)
            assert signature.return_annotation is TensorDesc
            annotations = {name: one.annotation for name, one in signature.parameters.items()}
            tensors = [name for name, kind in annotations.items() if kind is TensorDesc]
            attributes = {name: kind for name, kind in annotations.items() if kind is not TensorDesc}
            assert list(annotations) == [*tensors, *attributes]
            assert set(attributes.values()) <= set(ATTRIBUTES)
            assert identifier not in self.plugins
            self.plugins[identifier] = Plugin(describe, tensors, attributes)
            return describe

        return decorate

    def autotune(self, identifier: str) -> Callable[[Any], object]:
        def decorate(formats: Any) -> object:
            signature, plugin = inspect.signature(formats), self.plugins[identifier]
            assert list(signature.parameters) == [*plugin.tensors, "outputs"]
            assert typing.get_args(signature.return_annotation) == (AutoTuneCombination,)
            plugin.formats = formats
            return formats

        return decorate

    def aot_impl(self, identifier: str) -> Callable[[Any], object]:
        def decorate(compile_: Any) -> object:
            signature, plugin = inspect.signature(compile_), self.plugins[identifier]
            assert list(signature.parameters) == [*plugin.tensors, *plugin.attributes, "outputs", "tactic"]
            assert typing.get_origin(signature.parameters["outputs"].annotation) is tuple
            returned = typing.get_args(signature.return_annotation)
            assert [set(typing.get_args(kind)) for kind in returned[:2]] == [{str, bytes}] * 2
            assert returned[2:] == (KernelLaunchParams, SymIntExprs)
            plugin.compile = compile_
            return compile_

        return decorate

    @staticmethod
    def cdiv(first: int | Expr, second: int | Expr) -> Expr:
        assert isinstance(first, Expr)
        return Expr(-(-first._value // Expr(second)._value))
