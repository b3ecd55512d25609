"""The passes that compact ONNX graphs, one file each, and the pipeline they form."""

from __future__ import annotations

import importlib
import pkgutil

from fxprune.pipeline import PASSES

from ..program import FACT, OnnxPass

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

ORDER = (
    "onnx_rewrite",
    "onnx_fold",
    "onnx_noop",
    "onnx_shapes",
    "onnx_batchnorm",
    "onnx_share",
    "onnx_unused",
)


def compaction() -> tuple[OnnxPass, ...]:
    """Return the pipeline that compacts a model."""
    return tuple(PASSES[name]() for name in ORDER)


__all__ = ["FACT", "ORDER", "compaction"]
