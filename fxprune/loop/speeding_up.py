"""Speed up a sparse model: remove the units that zeros prove dead, and compare with the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxprune import passes, pipeline
from fxprune.capture import Dynamic, capture, unwrapped
from fxprune.cost import Costs
from fxprune.errors import VerifyError
from fxprune.graphs import tolerance
from fxprune.loop.progress import shown
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.report import Report
from fxprune.surgery import SlimModule, aliases, attach, outputs, owned, relative
from fxprune.surgery.masks import masks_of

RTOL = 1e-4


def speedup(
    model: nn.Module | ExportedProgram, inputs: Any = None, *, dynamic: Dynamic = "auto"
) -> SlimModule:
    """Return a module of the same function from which every provably dead unit is removed.

    The zeros of a sparse model count: plain ones, those of `torch.nn.utils.prune`, and our masks. A
    unit that nothing reads, or that is constant, is removed; its constant is added to what reads
    it. What is constant is so in *evaluation mode*: in training mode the result may give other
    numbers. The report says how many zeros were removed with units, how many are left, and what
    was refused and why.

    Which axes of the inputs are free is as with `prune`, and so is `dynamic`. Raises InputError,
    CaptureError or VerifyError.
    """
    with shown("capture") as watch:
        return _sped_up(model, replace(capture(model, inputs, dynamic), stage=watch.stage))


def _sped_up(model: nn.Module | ExportedProgram, program: Program) -> SlimModule:
    masks = {}
    if isinstance(model, nn.Module):
        with unwrapped(model) as plain:
            masks = masks_of(plain)
    if masks:
        program = _masked(program, masks)
    given = program.module
    program = pipeline.run(program, passes.eliminating())
    agree(given, program)
    plan = program[Plan]
    slim = cast(SlimModule, program.module)
    left = {name: _cut(mask, plan.kept[name]) for name, mask in masks.items()}
    slim.plan = Plan(plan.kept, plan.targets, {}, masks=left)
    slim.signature = program.signature
    masked = sum(int((~mask).sum()) for mask in left.values())
    program = program.with_(slim.plan, replace(program[Costs], masked=masked))
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
                data = module.get_parameter(name).data
                data.masked_fill_(~masks[name].to(data.device), 0)
    return program.on(module)


def _cut(mask: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
    for dim, index in enumerate(axes):
        mask = mask.index_select(dim, index.to(mask.device))
    return mask


def agree(given: nn.Module, program: Program) -> None:
    """Raise VerifyError where the two differ, on the example inputs or on random ones.

    The given graph decides what is legal: an input that it refuses is no test.
    """
    allowed = tolerance(given, RTOL)

    def ran(args: Any, kwargs: Any) -> tuple[Any, Any, list[Tensor]]:
        return args, kwargs, outputs(given, args, kwargs)

    def compare(args: Any, kwargs: Any, ours: list[Tensor]) -> None:
        theirs = outputs(program.module, args, kwargs)
        error = max((relative(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
        if not error <= allowed:
            raise VerifyError(
                f"speedup: the result differs from the model by {error:.1e} (relative; {allowed:g} "
                "is allowed). This is a bug in a rule: please report it"
            )

    args, kwargs, ours = program.signature.on_few(ran)
    compare(args, kwargs, ours)
    noisy = _noisy(torch.Generator().manual_seed(0))
    for _ in range(2):
        try:
            inputs, named, ours = ran(*pytree.tree_map(noisy, (args, kwargs)))
        except Exception:  # the model refuses such numbers
            continue
        if all(bool(one.isfinite().all()) for one in ours if one.is_floating_point()):
            compare(inputs, named, ours)


def _noisy(random: torch.Generator) -> Callable[[Any], Any]:
    def noisy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        noise = torch.randn(leaf.shape, generator=random).to(leaf.dtype).to(leaf.device)
        return leaf + noise

    return noisy
