"""Signatures: how a captured model is called, and with which sizes.

They say which axes of the inputs are free, under which conditions, and which are fixed, why and
where. Capture finds that out, files keep it, and a pruned module refuses other sizes by it.
"""

from fxprune.signature.conditions import Condition, parsed, related
from fxprune.signature.records import read, written
from fxprune.signature.signature import (
    Call,
    FixedAxis,
    Signature,
    by_name,
    in_order,
    labels,
    leaf_names,
    spread,
)

__all__ = [
    "Call",
    "Condition",
    "FixedAxis",
    "Signature",
    "by_name",
    "in_order",
    "labels",
    "leaf_names",
    "parsed",
    "read",
    "related",
    "spread",
    "written",
]
