"""Elimination: from zeros to dead units.

Constant values are propagated, the consumers of each unit are asked, and constants are folded.
So are means of units that vary, as batch norms tell them. Passes and repair stand on it.
"""

from fxprune.elimination.constant_propagation import constants
from fxprune.elimination.dead_units import DeadUnits, dead_units_of, owners
from fxprune.elimination.folding import compensate, folded, replaced
from fxprune.elimination.weighted_consumers import WeightedConsumer

__all__ = [
    "DeadUnits",
    "WeightedConsumer",
    "compensate",
    "constants",
    "dead_units_of",
    "folded",
    "owners",
    "replaced",
]
