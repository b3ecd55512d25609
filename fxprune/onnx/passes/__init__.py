"""The passes that compact ONNX graphs, one file each, and the pipeline they form.

Each returns a graph of the same function, which ONNX Runtime compares with the one before.
The export runs them, and so does `fxprune compact`.
"""

from __future__ import annotations

from fxprune.onnx.program import FACT, OnnxPass
from fxprune.pipeline import PASSES
from fxprune.registry import load

load(__name__)

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


__all__ = ["FACT", "ORDER", "PASSES", "compaction"]
