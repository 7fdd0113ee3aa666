"""From a checkpoint to a bundle: read, export, pass, lower, verify. Needs the ``build`` extra.

Python binds an imported subpackage to its name in the parent, where the public function `naflex_deploy.build`
stands. So that ``naflex_deploy.build(...)`` works before and after that import, the package can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        import naflex_deploy

        return naflex_deploy._build(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
