"""Compare two forms of one model by their numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxprune.capture import refusal
from fxprune.contexts import evaluating
from fxprune.errors import VerifyError
from fxprune.plan import Plan
from fxprune.signature import Signature
from fxprune.surgery.masking import zeroed


def outputs(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    changed: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> list[torch.Tensor]:
    """Run a module in evaluation mode on copies of what it may write to; return its tensors.

    `changed` stands in for parameters of these names. The modes are put back after.
    """
    tensors = {name: buffer.clone() for name, buffer in module.named_buffers()} | dict(changed)
    given, named = pytree.tree_map_only(torch.Tensor, torch.clone, (args, dict(kwargs)))
    with evaluating(module), torch.no_grad():
        result = torch.func.functional_call(module, tensors, given, named)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def difference(
    original: torch.nn.Module,
    shrunk: torch.nn.Module,
    plan: Plan,
    signature: Signature,
    spared: Collection[str] = (),
) -> float:
    """Return the largest relative difference of the zeroed original and the shrunk module.

    Parameters in `spared` are not zeroed: the original itself sees to what is computed of them. No
    more than two of the examples are run, where the model takes two, and once more at another size
    of every axis that is free.

    Raises InputError where the original refuses the examples, and VerifyError where an output has
    another shape or is missing.
    """
    zeros = zeroed(original, plan, spared)

    def ran(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, kwargs, outputs(original, args, kwargs, zeros)

    try:
        args, kwargs, ours = signature.on_few(ran)
    except Exception as error:  # fake tensors hide what real ones reject, such as mixed dtypes
        raise refusal("the model", signature.args, signature.kwargs, error) from error
    worst = _apart(ours, outputs(shrunk, args, kwargs))
    second = signature.second_sizes()
    if second:
        args, kwargs = signature.sized(second)
        try:
            ours = outputs(original, args, kwargs, zeros)
        except Exception:  # what the original refuses, the shrunk one need not take
            return worst
        worst = max(worst, _apart(ours, outputs(shrunk, args, kwargs)))
    return worst


def _apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Return the largest relative difference of outputs; raises VerifyError for other shapes."""
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        raise VerifyError(
            f"verify: outputs of {[tuple(a.shape) for a in ours]} became "
            f"{[tuple(b.shape) for b in theirs]}"
        )
    return max((relative(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return max|a-b| / max|a| over finite places; infinite where the others are not the same."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.detach().to(wide).flatten(), b.detach().to(wide).flatten()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    if not torch.allclose(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    scale = max(float(a.abs().max()), 1e-12)
    return float((a - b).abs().max()) / scale
