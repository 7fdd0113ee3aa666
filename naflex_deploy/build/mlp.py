"""The MLP of a block or a pooling head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.build.architecture import Architecture


class Mlp(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.approximate = "tanh" if a.activation == "gelu_tanh" else "none"
        self.fc1 = nn.Linear(a.width, a.mlp_width)
        self.fc2 = nn.Linear(a.mlp_width, a.width)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        return hidden
