"""Makes timm and transformers importable beside any build of torch. Import it before them.

Both import torchvision. Its wheel registers fake kernels for operators that its compiled half defines, and that half
loads only beside the torch build it was made for. No test needs those operators: their registration is skipped while
torchvision is imported once.
"""

from __future__ import annotations

import torch


def _import_torchvision() -> None:
    register_fake = torch.library.register_fake

    def skipping(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register_fake(op, *args, **kwargs)

    torch.library.register_fake = skipping
    try:
        import torchvision  # noqa: F401
    finally:
        torch.library.register_fake = register_fake


_import_torchvision()
torch.set_num_threads(1)
