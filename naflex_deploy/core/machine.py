"""Describe the machine at hand, for reports and figures."""

from __future__ import annotations

import math
import os
import platform
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

from naflex_deploy.core.control_groups import cpu_limit, read

CPU_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16", "avx512_bf16")

INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
"""A CPU with any of these flags multiplies u8 by s8 exactly and fast."""


def cpu_name() -> str:
    """Model name of the CPU, and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in _first_cpu() if "model name" in line]
    return f"{models[0] if models else name}, {cores()} cores"


def cores() -> int:
    """Number of cores that this process may use: those it may run on, or fewer where a container limits their time.

    A limit of 1.5 cores counts as 2, as one thread could not use it up.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _limit()
    return usable if math.isinf(limit) else max(1, min(usable, math.ceil(limit)))


@cache
def _limit() -> float:
    return cpu_limit(read(Path("/proc/self/cgroup")))


def cpu_flags() -> list[str]:
    """The flags among `CPU_FLAGS` that this CPU has; empty where the operating system does not list them."""
    words = {word for line in _first_cpu() for word in line.split()}
    return [flag for flag in CPU_FLAGS if flag in words]


@cache
def _first_cpu() -> tuple[str, ...]:
    """Lines of /proc/cpuinfo for the first CPU, which stands for all; empty where there is no such file.

    The kernel generates the file while it is read, which is slow on machines with many CPUs, and every session asks.
    """
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return ()
    with info.open(encoding="utf-8") as lines:
        return tuple(takewhile(str.strip, lines))


def has_vnni() -> bool:
    """Whether this CPU is known to multiply u8 by s8 exactly and fast."""
    return not INT8_FLAGS.isdisjoint(cpu_flags())


def bf16_units() -> str:
    """The units with which an x86 CPU multiplies bf16 fast, ``AMX`` or ``AVX512-BF16``; empty where it has none."""
    flags = cpu_flags()
    return "AMX" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else ""


def has_arm_bf16() -> bool:
    """Whether this is a 64-bit Arm CPU that multiplies bf16."""
    words = {word for line in _first_cpu() if line.startswith("Features") for word in line.split()}
    return platform.machine() in ("aarch64", "arm64") and "bf16" in words


def int8_warning() -> str:
    """A warning about int8 for an x86 CPU that lacks the instructions for it; empty for any other CPU."""
    if not cpu_flags() or has_vnni():
        return ""
    return (
        "this CPU has no VNNI: u8 by s8 products saturate in AVX2, so ONNX Runtime uses slower u8 by u8 products, and "
        "int8 gains little"
    )


def system_name() -> str:
    """Name and version of the operating system, and the version of Python."""
    return f"{platform.system()} {platform.release()}, Python {sys.version.split()[0]}"


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes.

    VmHWM is read where /proc has it, because ``ru_maxrss`` can include the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
