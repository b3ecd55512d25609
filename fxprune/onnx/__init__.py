"""ONNX out: one clean file, compared with the module in ONNX Runtime before it appears.

The exporter of torch converts, our passes clean and compact, sessions of ONNX Runtime compare.
ONNX and its runtime are imported when something here is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
