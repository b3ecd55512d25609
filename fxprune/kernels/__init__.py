"""The cost model of latency: fused kernels of ONNX Runtime, timed over widths and remembered."""

from __future__ import annotations

from fxprune.kernels.labels import Label, Labels, Unlabelled
from fxprune.kernels.model import KernelModel
from fxprune.kernels.store import Store, place

__all__ = ["KernelModel", "Label", "Labels", "Store", "Unlabelled", "place"]
