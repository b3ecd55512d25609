"""The cost model of latency: fused kernels of ONNX Runtime, timed over widths and remembered.

An exported graph is labelled by widths, cut into groups that run as one kernel, and each is timed.
The latency prediction of the loop adds the times up at any widths.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
