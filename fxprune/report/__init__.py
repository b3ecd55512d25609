"""The report: what a pruning cost before and after, what was removed, what is pinned and why.

It reads the facts of a finished program and computes nothing again.
The calls of the library and the command line show it.
"""

from fxprune.report.analysis import Analysis
from fxprune.report.report import LatencyReport, Report, Step
from fxprune.report.tuning import Epoch, Tuning

__all__ = ["Analysis", "Epoch", "LatencyReport", "Report", "Step", "Tuning"]
