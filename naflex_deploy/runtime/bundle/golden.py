"""Golden packs: inputs and fp32 reference outputs in a bundle, which measure an engine on any machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.manifest import Executed, Gate
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.results.figures import Figures

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tolerance:
    """How much an engine of one precision may differ from the reference.

    Attributes:
        pooled, tokens: Minimum cosine of a per-image vector and of a token.
        max_error: Maximum of max |Δ| over max |reference| of an output.
        top1: Minimum share of images whose best class is that of the reference.
        margin: Maximum mean error of logit margins, relative to the mean margin.
        accuracy: Maximum loss of accuracy on labelled images, as a share of these images.
        images: Whether only packs of real images are judged, where there are any: ranges that were calibrated on
            images need not fit random noise.
    """

    pooled: float
    tokens: float
    max_error: float | None = None
    top1: float | None = None
    margin: float | None = None
    accuracy: float | None = None
    images: bool = False


@dataclass(frozen=True, eq=False)
class GoldenPack:
    """One pack and the reference model's outputs for it; per-token outputs have no tail.

    Attributes:
        labels: [M] int64, the class of each image in a pack of real images, -1 where it is unknown; ``None`` for a
            pack of random pixels.
    """

    pack: Pack
    reference: Mapping[str, Float]
    labels: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Golden:
    """The content of ``golden.npz``."""

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
            if golden.labels is not None:
                arrays[f"{index}/labels"] = golden.labels
            arrays |= {f"{index}/output/{name}": values for name, values in golden.reference.items()}
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read ``golden.npz`` without unpickling anything.

        Raises:
            BundleError: The file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tolerances = {k: Tolerance(**v) for k, v in json.loads(str(arrays["tolerances"])).items()}
                count = sum(name.endswith("/grid_hw") for name in arrays.files)
                return cls([_golden_pack(arrays, f"{index}/") for index in range(count)], tolerances)
        except Exception as error:  # zipfile and numpy raise almost any exception on damaged data
            raise BundleError(f"{path} is damaged: {error}", hint="copy or build the bundle again") from None


def _golden_pack(arrays: Mapping[str, npt.NDArray[np.generic]], key: str) -> GoldenPack:
    prefix, tokens = (int(value) for value in arrays[f"{key}layout"])
    useful = arrays[f"{key}patches"]
    patches = np.zeros((tokens, useful.shape[1]), useful.dtype)
    patches[: len(useful)] = useful
    pack = Pack(patches, arrays[f"{key}grid_hw"], arrays[f"{key}offsets"], prefix)  # type: ignore[arg-type]
    outputs = f"{key}output/"
    reference = {n.removeprefix(outputs): arrays[n] for n in arrays if n.startswith(outputs)}
    return GoldenPack(pack, reference, arrays.get(f"{key}labels"))  # type: ignore[arg-type]


def measure(session: Session, golden: Golden, precision: str, executed: Executed) -> Gate:
    """Run every golden pack on an engine and compare its outputs with the reference.

    Args:
        session: The engine.
        golden: Packs and references.
        precision: Precision of the engine, which selects the tolerance.
        executed: The machine at hand.

    Returns:
        The gate, passed or failed, with the figures of `Figures.summary`, the worst ones and all reasons for failure.
    """
    tolerance = golden.tolerances[precision]
    images_alone = tolerance.images and any(item.labels is not None for item in golden.packs)
    figures, worst_error = Figures(), 0.0
    for index, item in enumerate(golden.packs):
        outputs = session.run(item.pack, list(item.reference))
        found = {name: values.astype(np.float32) for name, values in outputs.items()}
        for name, reference in item.reference.items():
            values = found[name][: len(reference)]
            if not np.isfinite(values).all():
                reason = f"{name} of golden pack {index} holds NaN or infinity"
                return Gate(status="failed", executed=executed, reason=reason)
            if item.labels is not None or not images_alone:
                worst_error = max(worst_error, float(np.abs(values - reference).max() / np.abs(reference).max()))
        if item.labels is not None or not images_alone:
            figures.add(found, item.reference, item.labels)
    summary = figures.summary()
    reason = "; ".join(shortfalls(summary, tolerance, worst_error))
    return Gate(
        status="failed" if reason else "passed",
        min_cosine=min(value for name, value in summary.items() if name.endswith("_cosine")),
        max_error=worst_error,
        figures=summary,
        executed=executed,
        reason=reason,
    )


def shortfalls(figures: Mapping[str, float], tolerance: Tolerance, worst_error: float = 0.0) -> Iterator[str]:
    """Describe every figure that misses its tolerance, in one clause each.

    Args:
        figures: Figures as from `Figures.summary`.
        tolerance: The limits for the figures.
        worst_error: Maximum of max |Δ| over max |reference|.
    """
    least = {
        "pooled_cosine": ("pooled cosine", tolerance.pooled),
        "token_cosine": ("tokens cosine", tolerance.tokens),
        # Where top-1 agreement is judged, the cosine of the logits adds nothing to it.
        "logits_cosine": ("logits cosine", tolerance.pooled if tolerance.top1 is None else None),
        "top1_agreement": ("top-1 agreement", tolerance.top1),
    }
    for name, (words, limit) in least.items():
        if limit is not None and figures.get(name, limit) < limit:
            yield f"{words} {figures[name]:.6f} is below {limit:g}"
    if tolerance.margin is not None and figures.get("margin_error", 0) > tolerance.margin:
        yield f"logit margin error {figures['margin_error']:.4f} is above {tolerance.margin:g}"
    if tolerance.accuracy is not None and "accuracy" in figures:
        lost = figures["reference_accuracy"] - figures["accuracy"]
        if lost > tolerance.accuracy:
            yield f"accuracy {figures['accuracy']:.4f} is {lost:.4f} below float32, more than {tolerance.accuracy:g}"
    if tolerance.max_error is not None and worst_error > tolerance.max_error:
        yield f"error {worst_error:.2e} of the largest value is above {tolerance.max_error:.0e}"
