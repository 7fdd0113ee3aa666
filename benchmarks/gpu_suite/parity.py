"""Compares every path of the GPU suite with the packed model in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_suite.paths import OUTPUTS, GpuPath, Images, Results
from benchmarks.gpu_suite.run import Run
from naflex_deploy.runtime.results.figures import cosine

GATES = {"fp32": (0.99999, 0.99999), "fp16": (0.9999, 0.9995), "bf16": (0.9999, 0.9995)}
"""Smallest cosine of a pooled vector, and of a token, for each precision."""

TIMES_TORCH = 1.2
"""Largest error of an engine in bf16, relative to that of torch in bf16."""


def parity(
    run: Run,
    model: str,
    paths: dict[str, GpuPath],
    expect: Callable[[Images], Results],
    images: Images,
    torch_bf16: str,
) -> list[dict[str, Any]]:
    """Measure a row for every path; one that fails or misses its gate is removed from ``paths``, so it is not timed.

    Args:
        run: The run, which records failures.
        model: Name of the model.
        paths: Paths by name.
        expect: Returns the outputs of the packed model in float32.
        images: Images to run.
        torch_bf16: Name of the path with whose error the errors of bf16 engines are compared.
    """
    wanted = expect(images)
    rows: list[dict[str, Any]] = []
    torch_error = None
    for name, path in list(paths.items()):
        try:
            bound = path.bind(images)
            bound.launch()
            found = bound.fetch()
        except Exception as error:  # A library may fail for any reason, which goes into the table.
            run.leave_out(f"{model}, {name}", error)
            del paths[name]
            continue
        row = {"name": name, "precision": path.precision, "ours": path.ours, **_figures(found, wanted)}
        if name == torch_bf16:
            torch_error = row["rms_error"]
        compared = path.ours and path.precision == "bf16" and torch_error
        row["times_torch"] = row["rms_error"] / torch_error if compared else None
        missed = _missed(row)
        row["passed"] = not missed
        rows.append(row)
        run.say(f"{model}, {name}: pooled {row['pooled']:.6f}, worst token {row['tokens']:.6f}")
        if missed:
            run.leave_out(f"{model}, {name}, timed", missed)
            del paths[name]
    return rows


def _figures(found: Results, wanted: Results) -> dict[str, Any]:
    """Smallest cosine by output, and the largest relative error and relative RMS error of the worse output."""
    differences = {output: np.abs(found[output] - wanted[output]) for output in OUTPUTS}
    return {
        **{output: float(cosine(found[output], wanted[output]).min()) for output in OUTPUTS},
        "max_error": float(max(d.max() / np.abs(wanted[o]).max() for o, d in differences.items())),
        "rms_error": float(max(np.linalg.norm(d) / np.linalg.norm(wanted[o]) for o, d in differences.items())),
    }


def _missed(row: dict[str, Any]) -> str:
    """The requirement that the row misses; empty if it meets all."""
    pooled, tokens = GATES[row["precision"]]
    if not (row["pooled"] >= pooled and row["tokens"] >= tokens):  # NaN misses, too
        return f"cosine of pooled {row['pooled']:.6f}, of tokens {row['tokens']:.6f}"
    if row["times_torch"] is not None and row["times_torch"] > TIMES_TORCH:
        return f"its error is {row['times_torch']:.2f} times that of torch in bf16"
    return ""
