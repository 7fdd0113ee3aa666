"""How close an engine's outputs are to the reference model's, image by image: cosines, and what decisions become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

UNKNOWN = -1
"""Label of an image that has none."""


@dataclass
class Figures:
    """Collects what outputs of packs say, for `summary`.

    Attributes:
        cosines: Of every row of ``pooled``, ``logits`` and any kind of tokens (``token``).
        agreed: For each image with logits, whether its best class is the reference's.
        margins: Its logit margin, the reference's lead of the best class over the second, and the error of that.
        right: For each image with a label, whether engine and reference name it.
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
        """Take in one pack.

        Args:
            found: Outputs by name, at least as many rows as the reference has.
            reference: The reference model's.
            labels: [M] class of each image, `UNKNOWN` where it is not known.
        """
        for name, wanted in reference.items():
            kind = "token" if name.startswith("tokens") else name
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
        """By name, those that there were outputs for.

        ``pooled_cosine``, ``token_cosine`` and ``logits_cosine`` are the least, ``…_mean`` the mean;
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
    """Cosine similarity of rows, [N, D] × [N, D] → [N]; 1 for two zero rows."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    similarity: npt.NDArray[np.float64] = (x * y).sum(-1) / np.maximum(norms, 1e-300)
    return np.where(norms > 0, similarity, (x == y).all(-1))
