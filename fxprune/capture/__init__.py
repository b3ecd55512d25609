"""Capture: a model becomes an ATen graph, the caller's model untouched.

Plain forwards are recorded with symbolic sizes; whatever is unusual goes to `torch.export`.
One call gives a finished program.
"""

from fxprune.capture.admission import placed
from fxprune.capture.capturing import capture, prepare, refusal
from fxprune.capture.modes import Modes, marks_of, put, put_training
from fxprune.capture.results import Outputs, checked, counting
from fxprune.capture.wanted_axes import Dynamic
from fxprune.capture.wrappers import unwrapped

__all__ = [
    "Dynamic",
    "Modes",
    "Outputs",
    "capture",
    "checked",
    "counting",
    "marks_of",
    "placed",
    "prepare",
    "put",
    "put_training",
    "refusal",
    "unwrapped",
]
