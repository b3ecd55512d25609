"""Prune one model with one tool in this process, and say what that took: see speed.py."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo_models import Case

RATIO = 0.5
OURS, THEIRS = "fxprune", "torch-pruning"


def clocked(spent: dict[str, float], phase: str, call: Callable[[], Any]) -> Any:
    """Call, and add the CPU seconds it took to those of `phase`."""
    began = time.process_time()
    try:
        return call()
    finally:
        spent[phase] = spent.get(phase, 0.0) + time.process_time() - began


def ours(model: nn.Module, inputs: tuple[Any, ...], spent: dict[str, float]) -> nn.Module:
    """Prune with fxprune, phase by phase as `prune` does."""
    import fxprune
    from fxprune import passes, pipeline
    from fxprune.capture import capture
    from fxprune.contexts import gc_paused
    from fxprune.targets.discovery import ALL_KINDS

    kinds = [kind for kind in ALL_KINDS if kind != "head"]
    spec = fxprune.Spec.of({"target": {"kind": kinds}, "objective": {"ratio": RATIO}})
    phases = {"shrink": "rewrite", "restore": "rewrite", "verify": "verify"}
    program = clocked(spent, "capture", lambda: capture(model, inputs))
    with gc_paused():  # as over the whole pipeline
        for step in passes.pruning(spec):
            run = partial(pipeline.run, program, [step])
            program = clocked(spent, phases.get(step.name, "analysis"), run)
    return program.module


def theirs(model: nn.Module, inputs: tuple[Any, ...], spent: dict[str, float]) -> nn.Module:
    """Prune with Torch-Pruning, told what its documentation says it must be told."""
    import torch_pruning as tp
    from torchvision.models import VisionTransformer

    heads = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    last += [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 1000]
    pruner = clocked(
        spent,
        "init",
        lambda: tp.pruner.MagnitudePruner(
            model,
            example_inputs=inputs[0][:1],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            ignored_layers=last,
            num_heads=heads,
        ),
    )
    clocked(spent, "step", pruner.step)
    if isinstance(model, VisionTransformer):
        model.hidden_dim = model.conv_proj.out_channels
    return model


def measure(tool: str, name: str) -> dict[str, Any]:
    """Return the seconds of each phase, the peak memory in MB, and what went wrong."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case = Case(name, "cls")
    model, inputs = case.build(small=False), case.inputs(small=False)
    before = sum(p.numel() for p in model.parameters())
    prune, spent = (ours if tool == OURS else theirs), dict[str, float]()
    clocked(spent, "once", partial(prune, *tiny(), {}))
    problem, after = "", 0
    try:
        result = prune(model, inputs, spent)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        after = sum(p.numel() for p in result.parameters())
        problem = unusable(result, inputs[0], before, after)
    except Exception as error:  # whatever a tool raises is its result
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:80]
    return {"seconds": spent, "peak": peak, "before": before, "after": after, "problem": problem}


def tiny() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Return three layers and an input."""
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 1000, 3)]
    return nn.Sequential(*layers).eval(), (torch.randn(2, 3, 8, 8),)


def unusable(model: nn.Module, x: torch.Tensor, before: int, after: int) -> str:
    """Say why a pruned model is of no use, or nothing."""
    try:
        with torch.no_grad():
            shape = model.eval()(x).shape
    except Exception as error:
        return f"does not run any more: {type(error).__name__}"
    if shape != (len(x), 1000):
        return f"gives {tuple(shape)}"
    return "nothing was pruned" if after == before else ""
