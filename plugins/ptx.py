"""Compiles a kernel to PTX for one architecture, without a GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget

SHARED_LIMIT = 48 * 1024
"""Bytes of shared memory that a kernel may use without opting in to more."""


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel that is ready to be embedded.

    Attributes:
        name: Name of its entry.
        ptx: The PTX text, whose entry takes only the kernel's own arguments.
        threads: Number of threads in a block.
        shared: Bytes of shared memory of a block.
    """

    name: str
    ptx: str
    threads: int
    shared: int


def compile_kernel(
    kernel: triton.JITFunction, arguments: Mapping[str, str], constants: Mapping[str, object], sm: int, warps: int = 4
) -> Compiled:
    """Compile a kernel to PTX.

    Args:
        kernel: A `triton.jit` function.
        arguments: Type of each argument, in the kernel's order, such as ``*fp16``, ``*i32`` or ``i32``.
        constants: Value of each constexpr.
        sm: Architecture, such as 80 for ``sm80``.
        warps: Number of warps of 32 threads in a block.

    Raises:
        ValueError: The kernel needs more shared memory than `SHARED_LIMIT`.
    """
    signature = {**arguments, **dict.fromkeys(constants, "constexpr")}
    names = list(signature)
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in arguments.items() if kind[0] == "*"}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=aligned)
    for stages in (2, 1):  # Two stages prefetch loads, if shared memory has room for them.
        options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
        built = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
        if built.metadata.shared <= SHARED_LIMIT:
            break
    else:
        raise ValueError(f"{built.metadata.name} takes {built.metadata.shared} bytes of shared memory")
    ptx = drop_scratch(built.asm["ptx"], built.metadata.name, len(arguments))
    return Compiled(built.metadata.name, ptx, warps * 32, built.metadata.shared)


def drop_scratch(ptx: str, name: str, arguments: int) -> str:
    """Remove the scratch pointers that the compiler adds for its own launcher, which the entry must not use.

    TensorRT passes inputs, integers and outputs, and nothing after those.

    Args:
        ptx: The PTX text from the compiler.
        name: Name of the entry.
        arguments: Number of the kernel's own arguments.

    Raises:
        ValueError: The entry does not exist, or it uses one of these pointers.
    """
    entry = re.search(rf"\.entry {re.escape(name)}\((?P<parameters>[^)]*)\)", ptx)
    if entry is None:
        raise ValueError(f"no entry {name} in the PTX")
    parameters = [line.strip() for line in entry["parameters"].split(",\n")]
    for parameter in parameters[arguments:]:
        added = parameter.split()[-1]
        if ptx.count(added) > 1:
            raise ValueError(f"{name} uses {added}, which TensorRT does not pass")
    kept = ",\n\t".join(parameters[:arguments])
    return f"{ptx[: entry.start('parameters')]}\n\t{kept}\n{ptx[entry.end('parameters') :]}"
