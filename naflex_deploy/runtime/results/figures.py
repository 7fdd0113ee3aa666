"""How close the outputs of an engine are to those of the reference model: cosines, and agreement of decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.pack import on_grid

Float = npt.NDArray[np.float32]

UNKNOWN = -1
"""The label of an image whose class is not known."""


@dataclass
class Figures:
    """Compares outputs pack by pack, for `summary`.

    Attributes:
        cosines: The cosine of every row of ``pooled``, ``logits`` and any kind of tokens (``token``).
        agreed: For each image with logits, whether engine and reference choose the same class.
        margins: For each image with logits, the reference's margin between its best two classes, and the engine's error
            in that margin.
        right: For each image with a label, whether the engine and the reference choose that label.
    """

    cosines: dict[str, list[npt.NDArray[np.float64]]] = field(default_factory=dict)
    agreed: list[bool] = field(default_factory=list)
    margins: list[tuple[float, float]] = field(default_factory=list)
    right: list[tuple[bool, bool]] = field(default_factory=list)

    def add(
        self,
        found: Mapping[str, Float],
        reference: Mapping[str, Float],
        labels: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Compare the outputs of one pack.

        Args:
            found: Outputs of the engine by name, with at least as many rows as those of the reference.
            reference: Outputs of the reference model by name.
            labels: [M] class of each image, `UNKNOWN` where it is not known.
        """
        for name, wanted in reference.items():
            kind = "token" if on_grid(name) else name
            self.cosines.setdefault(kind, []).append(cosine(found[name][: len(wanted)].astype(np.float32), wanted))
        if "logits" in reference and reference["logits"].shape[1] > 1:
            wanted = reference["logits"]
            self._decide(found["logits"][: len(wanted)].astype(np.float64), wanted.astype(np.float64), labels)

    def _decide(
        self,
        found: npt.NDArray[np.float64],
        wanted: npt.NDArray[np.float64],
        labels: npt.NDArray[np.int64] | None,
    ) -> None:
        rows = np.arange(len(wanted))
        second, best = np.argsort(wanted, 1, kind="stable")[:, -2:].T
        margin = wanted[rows, best] - wanted[rows, second]
        error = np.abs(found[rows, best] - found[rows, second] - margin)
        named = found.argmax(1)
        self.agreed += (named == best).tolist()
        self.margins += zip(margin.tolist(), error.tolist(), strict=True)
        for row, label in enumerate([] if labels is None else labels):
            if label != UNKNOWN:
                self.right.append((bool(named[row] == label), bool(best[row] == label)))

    def summary(self) -> dict[str, float]:
        """The figures by name, for the outputs that there were.

        ``pooled_cosine``, ``token_cosine`` and ``logits_cosine`` are minima, ``…_mean`` are means;
        ``top1_agreement`` is a share of images; ``margin_error`` is the mean error of logit margins over the mean
        margin; ``accuracy`` and ``reference_accuracy`` are shares of the labelled images.
        """
        found: dict[str, float] = {}
        for kind, rows in self.cosines.items():
            values = np.concatenate(rows)
            found |= {f"{kind}_cosine": float(values.min()), f"{kind}_cosine_mean": float(values.mean())}
        if self.agreed:
            margin, error = np.mean(self.margins, axis=0)
            found["images"] = len(self.agreed)
            found["top1_agreement"] = float(np.mean(self.agreed))
            found["margin_error"] = float(error / max(margin, 1e-30))
        if self.right:
            found["labelled"] = len(self.right)
            found["accuracy"], found["reference_accuracy"] = map(float, np.mean(self.right, axis=0))
        return found


def cosine(a: Float, b: Float) -> npt.NDArray[np.float64]:
    """Cosine similarity of corresponding rows, [N, D] × [N, D] → [N]; two rows of zeros give 1."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    similarity: npt.NDArray[np.float64] = (x * y).sum(-1) / np.maximum(norms, 1e-300)
    return np.where(norms > 0, similarity, (x == y).all(-1))
