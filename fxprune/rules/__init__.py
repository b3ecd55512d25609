"""The rules: what each operator states about the guards of its operands and its result.

One file an operator family; each registers its rules when it is imported, and every file in this
folder is imported. A rule says how to *couple* its operands (guards in, guards out), how to
*rewrite* the constants of its own node when indices are removed, and what its multiplications cost.
"""

from fxprune.registry import load
from fxprune.rules.kept import Kept
from fxprune.rules.numbering import with_numbers
from fxprune.rules.pointwise import is_pointwise, name_of
from fxprune.rules.registry import RULES, Rule
from fxprune.rules.site import (
    Coupling,
    Site,
    TensorGuard,
    Value,
    hint,
    operands_of,
    shape_of,
    tensor_meta,
)

load(__name__)

__all__ = [
    "RULES",
    "Coupling",
    "Kept",
    "Rule",
    "Site",
    "TensorGuard",
    "Value",
    "hint",
    "is_pointwise",
    "name_of",
    "operands_of",
    "shape_of",
    "tensor_meta",
    "with_numbers",
]
