"""Golden packs: inputs with fp32 reference outputs that travel in a bundle and measure any engine anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.manifest import Executed, Gate
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.sessions import Session

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tolerance:
    """What an engine of one precision may differ by.

    Attributes:
        pooled, tokens: Least cosine of a per-image vector, of a token.
        max_error: Greatest max |Δ| over max |reference| of an output.
    """

    pooled: float
    tokens: float
    max_error: float | None = None


@dataclass(frozen=True, eq=False)
class GoldenPack:
    """One pack and the outputs of the reference model for it, per-token ones without the tail."""

    pack: Pack
    reference: Mapping[str, Float]


@dataclass(frozen=True, eq=False)
class Golden:
    """What ``golden.npz`` holds."""

    packs: Sequence[GoldenPack]
    tolerances: Mapping[str, Tolerance]

    def write(self, path: Path) -> None:
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "tolerances": np.array(json.dumps({name: asdict(t) for name, t in self.tolerances.items()}))
        }
        for index, golden in enumerate(self.packs):
            pack = golden.pack
            arrays[f"{index}/patches"] = pack.patches[: pack.useful_tokens]
            arrays[f"{index}/grid_hw"] = pack.grid_hw
            arrays[f"{index}/offsets"] = pack.offsets
            arrays[f"{index}/layout"] = np.array([pack.prefix, pack.tokens])
            arrays |= {f"{index}/output/{name}": values for name, values in golden.reference.items()}
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read ``golden.npz``; never unpickles.

        Raises:
            BundleError: It is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tolerances = {k: Tolerance(**v) for k, v in json.loads(str(arrays["tolerances"])).items()}
                count = sum(name.endswith("/grid_hw") for name in arrays.files)
                return cls([_golden_pack(arrays, f"{index}/") for index in range(count)], tolerances)
        except Exception as error:  # zipfile and numpy raise nearly any of them on damaged data
            raise BundleError(f"{path} is damaged: {error}", hint="copy or build the bundle again") from None


def _golden_pack(arrays: Mapping[str, npt.NDArray[np.generic]], key: str) -> GoldenPack:
    prefix, tokens = (int(value) for value in arrays[f"{key}layout"])
    useful = arrays[f"{key}patches"]
    patches = np.zeros((tokens, useful.shape[1]), useful.dtype)
    patches[: len(useful)] = useful
    pack = Pack(patches, arrays[f"{key}grid_hw"], arrays[f"{key}offsets"], prefix)  # type: ignore[arg-type]
    outputs = f"{key}output/"
    return GoldenPack(pack, {n.removeprefix(outputs): arrays[n] for n in arrays if n.startswith(outputs)})  # type: ignore[misc]


def measure(session: Session, golden: Golden, precision: str, executed: Executed) -> Gate:
    """Run every golden pack and compare.

    Args:
        session: The engine.
        golden: Packs and references.
        precision: Of the engine; chooses the tolerance.
        executed: The machine at hand.

    Returns:
        Passed or failed, with the worst figures and, where it failed, the reason.
    """
    tolerance = golden.tolerances[precision]
    cosines = {"pooled": 1.0, "tokens": 1.0}
    worst_error, reason = 0.0, ""
    for index, item in enumerate(golden.packs):
        found = session.run(item.pack, list(item.reference))
        for name, reference in item.reference.items():
            values = found[name][: len(reference)].astype(np.float32)
            if not np.isfinite(values).all():
                reason = f"{name} of golden pack {index} holds NaN or infinity"
                return Gate(status="failed", executed=executed, reason=reason)
            worst_error = max(worst_error, float(np.abs(values - reference).max() / np.abs(reference).max()))
            kind = "tokens" if name.startswith("tokens") else "pooled"
            cosines[kind] = min(cosines[kind], float(cosine(values, reference).min()))
    for kind, least in (("pooled", tolerance.pooled), ("tokens", tolerance.tokens)):
        if cosines[kind] < least:
            reason = reason or f"{kind} cosine {cosines[kind]:.6f} is below {least}"
    if tolerance.max_error is not None and worst_error > tolerance.max_error:
        reason = reason or f"error {worst_error:.2e} of the largest value is above {tolerance.max_error:.0e}"
    return Gate(
        status="failed" if reason else "passed",
        min_cosine=min(cosines.values()),
        max_error=worst_error,
        executed=executed,
        reason=reason,
    )


def cosine(a: Float, b: Float) -> npt.NDArray[np.float64]:
    """Cosine similarity of rows, [N, D] × [N, D] → [N]; 1 for two zero rows."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    similarity: npt.NDArray[np.float64] = (x * y).sum(-1) / np.maximum(norms, 1e-300)
    return np.where(norms > 0, similarity, (x == y).all(-1))
