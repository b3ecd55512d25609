"""The rules: what each operator states about the guards of its operands and its result.

One file an operator family; each registers its rules when it is imported, and every file in this
folder is imported. A rule says how to *couple* its operands (guards in, guards out), how to
*rewrite* the constants of its own node when indices leave, and what its multiplications cost.
"""

from fxprune.rules.registry import RULES, Rule, load_families

load_families()

__all__ = ["RULES", "Rule"]
