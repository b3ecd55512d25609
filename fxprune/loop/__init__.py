"""The loop: a schedule outside, an allocation inside, then removal and training.

A run keeps its state, carries optimizers over, writes checkpoints, meets latencies, makes families.
Only the calls of the library and the command line stand above it.
"""

from fxprune.loop.caller_functions import Callbacks
from fxprune.loop.family import prune_family
from fxprune.loop.family_table import Family
from fxprune.loop.fine_tuning import FineTune
from fxprune.loop.forecasting import forecast
from fxprune.loop.pretrained import load_pretrained, save_pretrained
from fxprune.loop.repairing import repair
from fxprune.loop.speeding_up import speedup
from fxprune.loop.steps import prune_in_steps

__all__ = [
    "Callbacks",
    "Family",
    "FineTune",
    "forecast",
    "load_pretrained",
    "prune_family",
    "prune_in_steps",
    "repair",
    "save_pretrained",
    "speedup",
]
