"""Back into the user's own class: a model is narrowed in place, proven equal or left as it was.

Tensors are cut by their names. Integers that must change are found by what they do: a forward is
watched with integers that remember where they come from, and those that became constants of the
graph are set to what the smaller graph has. Sizes that no forward reads are told by building the
module anew. Then the model is captured again and compared. `write_back` and `apply` do it.
"""

from fxprune.surgery.own_class.narrowing import narrow
from fxprune.surgery.own_class.writing_back import apply, write_back

__all__ = ["apply", "narrow", "write_back"]
