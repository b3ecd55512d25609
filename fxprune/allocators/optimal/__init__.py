"""The allocation `optimal`: an integer program over the widths of all targets at once.

Costs are tables over the widths of single targets and of pairs; importance is what it maximises.
The default allocation wherever the objective is a budget.
"""

from fxprune.allocators.optimal.allocator import Optimal

__all__ = ["Optimal"]
