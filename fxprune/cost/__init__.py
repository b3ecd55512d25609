"""Cost: parameters, bytes, MACs and activations as functions of what is kept.

Each is a sum of terms over the sizes of a few axes, so that widths can be tabulated.
Objectives, allocators and the latency model read it.
"""

from fxprune.cost.cost import Cost
from fxprune.cost.costs import Costs, Counts
from fxprune.cost.original_widths import OriginalWidths
from fxprune.cost.terms import Table, Term

__all__ = ["Cost", "Costs", "Counts", "OriginalWidths", "Table", "Term"]
