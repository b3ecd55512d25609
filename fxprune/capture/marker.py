"""The operator that marks, in a captured graph, a module that hands its input on.

Its result shares the storage of what it is given, as that of the module does.
"""

from __future__ import annotations

import torch

NAMESPACE = "fxprune"
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # the operator lives as long as this does
LIBRARY.define("handed_on(Tensor(a) x, str path) -> Tensor(a)")


@torch.library.impl(LIBRARY, "handed_on", "CompositeImplicitAutograd")
def _(x: torch.Tensor, path: str) -> torch.Tensor:
    """Stand for the call of the module at `path`, which hands `x` on."""
    alias: torch.Tensor = torch.ops.aten.alias.default(x)
    return alias


handed_on = torch.ops.fxprune.handed_on.default
