"""Guards: conjunctions of keep-variables, one for each index of each dimension, and their solver.

Union, define and pin are all it knows; it has heard of no operator and no module.
The rules state their equalities in it.
"""

from fxprune.guards.guards import Guards, Ids, Mask, Reason, concat, distinct, numbered, outer, true

__all__ = ["Guards", "Ids", "Mask", "Reason", "concat", "distinct", "numbered", "outer", "true"]
