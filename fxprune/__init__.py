"""fxprune: a pruning compiler for PyTorch.

It captures a model as an ATen graph, finds by itself which slices of which tensors belong
together, decides what to remove to meet an objective, removes it, and exports the smaller model.

Its names are listed in the stub beside this file; each is imported when it is first used, and so
are its modules, such as `fxprune.errors`.
"""

from importlib import import_module
from typing import Any

import lazy_loader

from fxprune._version import __version__ as __version__

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Return a public name, or the module or folder of a name."""
    try:
        return _public(name)
    except AttributeError:
        if name.startswith("_"):
            raise
    module = f"{__name__}.{name}"
    try:
        return import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name != module:  # it is there, and needs something that is not
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
