"""Repair: the weights of a smaller graph are refitted to the original, without training.

Both graphs run side by side over calibration batches. A contraction is fitted the moment it is
reached, by least squares, from what the smaller graph really gives it to what the original gave;
the statistics of norms are corrected. The pass `repair` does it, and metrics read the moments.
"""

from fxprune.surgery.repair.methods import REPAIRS, Job, Method
from fxprune.surgery.repair.refitting import Refit
from fxprune.surgery.repair.repairing import Repaired, RepairReport, paired, repaired
from fxprune.surgery.repair.walk import Pair, Terms

__all__ = [
    "REPAIRS",
    "Job",
    "Method",
    "Pair",
    "Refit",
    "RepairReport",
    "Repaired",
    "Terms",
    "paired",
    "repaired",
]
