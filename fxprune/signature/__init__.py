"""Signatures: how a captured model is called, and with which sizes.

Which axes of the inputs are free, under which conditions, and which are fixed, why and where;
a call with other sizes is refused by name.
"""

from fxprune.signature.conditions import Condition, parsed
from fxprune.signature.records import read, written
from fxprune.signature.signature import Call, FixedAxis, Signature, by_name, labels, leaf_names

__all__ = [
    "Call",
    "Condition",
    "FixedAxis",
    "Signature",
    "by_name",
    "labels",
    "leaf_names",
    "parsed",
    "read",
    "written",
]
