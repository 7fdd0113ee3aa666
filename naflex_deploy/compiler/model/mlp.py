"""The MLP of a block or a pooling head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.compiler.model.architecture import Activation


class Mlp(nn.Module):
    """Two linear layers around an activation.

    Args:
        width: D, channels of input and output.
        hidden: Channels between the two layers.
        activation: Activation of the first layer, or of the gate.
        gated: Whether the activation of a third layer multiplies the first layer (SwiGLU with ``silu``).
        norm_eps: ε of a LayerNorm on the hidden channels; ``None`` for no norm.
    """

    def __init__(
        self, width: int, hidden: int, activation: Activation, *, gated: bool = False, norm_eps: float | None = None
    ) -> None:
        super().__init__()
        self.silu = activation == "silu"
        self.approximate = "tanh" if activation == "gelu_tanh" else "none"
        self.gate = nn.Linear(width, hidden) if gated else None
        self.fc1 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, norm_eps) if norm_eps is not None else None
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [T, D] to [T, D]."""
        hidden = self.fc1(x)
        hidden = self._activate(hidden) if self.gate is None else self._activate(self.gate(x)) * hidden
        if self.norm is not None:
            hidden = self.norm(hidden)
        y: Tensor = self.fc2(hidden)
        return y

    def _activate(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.silu else F.gelu(x, approximate=self.approximate)
