"""Compare two forms of one model by their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxprune.errors import VerifyError
from fxprune.masking import zeroed
from fxprune.plan import Plan
from fxprune.program import Signature


def outputs(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    """Run a module in evaluation mode, its modes put back after; return the tensors it gives."""
    modes = [(one, one.training) for one in module.modules()]
    for one, _ in modes:
        one.training = False
    try:
        with torch.no_grad():
            result = module(*args, **kwargs)
    finally:
        for one, mode in modes:
            one.training = mode
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def difference(
    original: torch.nn.Module, shrunk: torch.nn.Module, plan: Plan, signature: Signature
) -> float:
    """Return the largest relative difference of the zeroed original and the shrunk module.

    Raises VerifyError where an output has another shape or is missing.
    """
    args, kwargs = signature.args, signature.kwargs
    with torch.no_grad():
        whole = torch.func.functional_call(original, zeroed(original, plan), args, kwargs)
    ours = [leaf for leaf in pytree.tree_leaves(whole) if isinstance(leaf, torch.Tensor)]
    theirs = outputs(shrunk, args, kwargs)
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        raise VerifyError(
            f"verify: outputs of {[tuple(a.shape) for a in ours]} became "
            f"{[tuple(b.shape) for b in theirs]}. This is a bug in a rule: please report it"
        )
    return max((relative(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return max|a-b| / max|a| over finite places; infinite where only one side is finite."""
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    scale = max(float(a.abs().max()), 1e-12)
    return float((a - b).abs().max()) / scale
