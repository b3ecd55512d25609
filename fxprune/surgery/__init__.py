"""Surgery: a graph becomes smaller, its leaf modules are put back, and the result is proven.

Shrinking cuts tensors and constants; masking zeroes instead; verification compares the two.
The passes do it; nothing below knows of it.
"""

from fxprune.surgery.masking import masked, owned, zeroed
from fxprune.surgery.masks import Masks, attach
from fxprune.surgery.reads import zeroed_reads
from fxprune.surgery.restoration import restore
from fxprune.surgery.shrinking import aliases, cut_of, kept_indices, shrink
from fxprune.surgery.slim import SlimModule
from fxprune.surgery.verification import difference, outputs, relative

__all__ = [
    "Masks",
    "SlimModule",
    "aliases",
    "attach",
    "cut_of",
    "difference",
    "kept_indices",
    "masked",
    "outputs",
    "owned",
    "relative",
    "restore",
    "shrink",
    "zeroed",
    "zeroed_reads",
]
