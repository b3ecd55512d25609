"""fxprune: a pruning compiler for PyTorch.

It captures a model as an ATen graph, finds by itself which slices of which tensors belong
together, decides what to remove to meet an objective, removes it, and exports what is left.
"""

from fxprune.api import analyze, export_onnx, prune, run, save
from fxprune.api import load_module as load
from fxprune.errors import FxpruneError
from fxprune.family import prune_family
from fxprune.plan import Plan
from fxprune.report import Report
from fxprune.slim import SlimModule
from fxprune.spec import Spec
from fxprune.speeding import speedup
from fxprune.tuning import FineTune

__version__ = "0.1.0"

__all__ = [
    "FineTune",
    "FxpruneError",
    "Plan",
    "Report",
    "SlimModule",
    "Spec",
    "analyze",
    "export_onnx",
    "load",
    "prune",
    "prune_family",
    "run",
    "save",
    "speedup",
]
