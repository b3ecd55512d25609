"""Turn zeros into speed: remove what is provably dead, and compare with the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxprune import pipeline
from fxprune.capture import capture
from fxprune.errors import VerifyError
from fxprune.masking import owned
from fxprune.masks import attach, masks_of
from fxprune.plan import Plan
from fxprune.program import Program, tolerance
from fxprune.report import Report
from fxprune.shrinking import aliases
from fxprune.slim import SlimModule
from fxprune.verification import outputs, relative

RTOL = 1e-4


def speedup(model: nn.Module | ExportedProgram, inputs: Any = None) -> SlimModule:
    """Return a module of the same function from which every provably dead unit is removed.

    The zeros of a sparse model tell: plain ones, those of `torch.nn.utils.prune`, and our masks. A
    unit that nobody reads, or that is constant, leaves; its constant is added to what reads it.
    What is constant is so in *evaluation mode*: in training mode the result may give other numbers.
    The report says how many zeros left with the units, how many stay, and what was refused and why.

    Raises InputError, CaptureError or VerifyError.
    """
    import passes  # late: it imports this package

    program = capture(model, inputs)
    masks = masks_of(model) if isinstance(model, nn.Module) else {}
    if masks:
        program = _masked(program, masks)
    given = program.module
    program = pipeline.run(program, passes.eliminating())
    agree(given, program)
    assert program.plan is not None
    slim = cast(SlimModule, program.module)
    left = {name: _cut(mask, program.plan.kept[name]) for name, mask in masks.items()}
    slim.plan = Plan(program.plan.kept, program.plan.targets, {}, masks=left)
    slim.signature = program.signature
    masked = sum(int((~mask).sum()) for mask in left.values())
    program = program.with_(plan=slim.plan, costs={**program.costs, "masked": masked})
    slim.report = Report.of(program)
    if left:
        attach(slim, left)
    return slim


def _masked(program: Program, masks: dict[str, Tensor]) -> Program:
    """Return a program of its own whose masked entries are zero, as they are in every forward."""
    module = owned(program.module)
    for names in aliases(module).values():
        for name in names:
            if name in masks:
                module.get_parameter(name).data.masked_fill_(~masks[name].cpu(), 0)
    return program.with_(module=module, owned=True)


def _cut(mask: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
    for dim, index in enumerate(axes):
        mask = mask.index_select(dim, index.to(mask.device))
    return mask


def agree(given: nn.Module, program: Program) -> None:
    """Raise VerifyError where the two differ, on the example inputs or on random ones.

    The given graph decides what is legal: an input that it refuses is no test.
    """
    signature, allowed = program.signature, tolerance(given, RTOL)
    args, kwargs = signature.args, signature.kwargs
    if (signature.batch or 0) > 2:
        with suppress(Exception):  # such as a batch that must be a multiple of four
            outputs(given, *signature.resized(2))
            args, kwargs = signature.resized(2)
    random = torch.Generator().manual_seed(0)
    changes: tuple[Callable[[Any], Any], ...] = (lambda leaf: leaf, _noisy(random), _noisy(random))
    for number, change in enumerate(changes):
        inputs, named = pytree.tree_map(change, (args, kwargs))
        try:
            ours = outputs(given, inputs, named)
        except Exception:
            if number == 0:
                raise
            continue
        theirs = outputs(program.module, inputs, named)
        error = max((relative(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
        finite = all(bool(a.isfinite().all()) for a in ours if a.is_floating_point())
        if not error <= allowed and (finite or number == 0):
            raise VerifyError(
                f"speedup: the result differs from the model by {error:.1e} (relative; {allowed:g} "
                "is allowed). This is a bug in a rule: please report it"
            )


def _noisy(random: torch.Generator) -> Callable[[Any], Any]:
    def noisy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        noise = torch.randn(leaf.shape, generator=random).to(leaf.dtype).to(leaf.device)
        return leaf + noise

    return noisy
