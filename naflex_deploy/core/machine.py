"""The machine at hand, as figures and reports name it."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

CPU_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16", "avx512_bf16")

INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
"""With one of these, products of u8 and s8 are exact and fast."""


def cpu_name() -> str:
    """Model name of the CPU and the cores this process may use."""
    name = platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in _first_cpu() if "model name" in line]
    return f"{models[0] if models else name}, {cores()} cores"


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_flags() -> list[str]:
    """Of `CPU_FLAGS`, those this CPU has; empty where the system does not tell."""
    words = {word for line in _first_cpu() for word in line.split()}
    return [flag for flag in CPU_FLAGS if flag in words]


@cache
def _first_cpu() -> tuple[str, ...]:
    """Lines of /proc/cpuinfo about the first CPU, the others being like it; none where there is no such file.

    The kernel makes the file as it is read, which takes long where CPUs are many, and every session asks.
    """
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return ()
    with info.open(encoding="utf-8") as lines:
        return tuple(takewhile(str.strip, lines))


def has_vnni() -> bool:
    """Whether products of u8 and s8 are known to be exact and fast on this CPU."""
    return not INT8_FLAGS.isdisjoint(cpu_flags())


def int8_warning() -> str:
    """What to expect of int8 on this CPU where it is an x86 without the instructions for it; empty otherwise."""
    if not cpu_flags() or has_vnni():
        return ""
    return (
        "this CPU has no VNNI: products of u8 and s8 saturate in AVX2, so ONNX Runtime is told to take slower ones of "
        "u8 and u8, and int8 gains little"
    )


def system_name() -> str:
    """Operating system, its version, and Python's."""
    return f"{platform.system()} {platform.release()}, Python {sys.version.split()[0]}"


def peak_memory() -> int:
    """Bytes of resident memory that this program held at most.

    The kernel's usual counter also knows of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
