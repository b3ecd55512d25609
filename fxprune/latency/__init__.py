"""Latency: the devices that measure it, and the cost model of a graph's kernels.

Kernels are labelled by widths, timed alone and remembered, so that a latency can be predicted.
The loop predicts with it and holds its contract by it. ONNX and its runtime are imported when a
kernel model, or a device that runs there, is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
