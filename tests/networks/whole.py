"""The law of the whole: the original with dropped units' weights zeroed ≡ the shrunk module."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxprune.allocators.minimum_widths import restored
from fxprune.capture import capture
from fxprune.guards import Mask
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.rules import Coupling, TensorGuard
from fxprune.surgery import kept_indices, shrink, zeroed, zeroed_reads
from fxprune.targets import Discovery, Target, couple

TOLERANCE = 1e-4  # relative to the largest output
KERNEL = "a spatial or kernel axis keeps its size"


@dataclass(frozen=True)
class Analysis:
    """Hold a captured model, coupled, and its targets."""

    model: nn.Module
    program: Program
    coupling: Coupling
    discovery: Discovery

    @property
    def stays(self) -> set[str]:
        """Return the parameter axes, such as `conv.weight 1`, in no target (kernels left out)."""
        shrinks = {place for target in self.discovery.targets for place in target.footprint}
        found: set[str] = set()
        for axis in self.discovery.axes:
            reasons = self.coupling.guards.why(axis.raw)
            kernel = reasons and all(reason.text == KERNEL for reason in reasons)
            if (axis.name, axis.dim) not in shrinks and len(axis.raw) > 1 and not kernel:
                found.add(f"{axis.name} {axis.dim}")
        return found


def analyse(model: nn.Module, inputs: Any) -> Analysis:
    """Capture and couple a model, its parameters and statistics made unlike their defaults.

    An ExportedProgram may stand for the inputs; it holds the parameters, so they stay as they are.
    """
    model = model.eval()
    if isinstance(inputs, ExportedProgram):
        program = capture(inputs)
    else:
        randomise(model)
        program = capture(model, inputs)
    coupling = couple(program.module)
    return Analysis(model, program, coupling, Discovery(program.module, coupling))


def randomise(model: nn.Module) -> None:
    """Give biases and norms values, so that a wrong removal shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def drop(analysis: Analysis, targets: list[Target], ratio: float, seed: int) -> Mask:
    """Drop a random share of every target, and give back what would leave an axis empty."""
    random = np.random.default_rng(seed)
    alive = np.ones(analysis.coupling.guards.size, dtype=bool)
    for target in targets:
        n = min(len(target) - 1, max(1, round(ratio * len(target))))
        alive[random.permutation(target.units)[:n]] = False
    normal = analysis.coupling.guards.normal
    for value in pytree.tree_leaves(list(analysis.coupling.values.values())):
        for g in value.dims if isinstance(value, TensorGuard) else ():
            rows = normal(g)
            if rows.shape[1] and len(rows) and not alive[rows].all(axis=1).any():
                alive[rows[random.integers(len(rows))]] = True
    for ranking in analysis.coupling.rankings:
        rows = normal(ranking.guard)
        if rows.shape[1] and ranking.chosen:
            restored(alive, rows, random.random(len(alive)), ranking.least)
    return alive


def obey(
    analysis: Analysis, *others: Any, ratio: float = 0.4, seed: int = 0, exact: bool = True
) -> nn.Module:
    """Assert the law on the example inputs and on `others`; return the shrunk module."""
    targets = [target for target in analysis.discovery.targets if target.exact or not exact]
    alive = drop(analysis, targets, ratio, seed)
    module = analysis.program.module
    small = shrink(module, analysis.coupling, alive)
    kept = kept_indices(module, analysis.coupling, alive)
    signature = analysis.program.signature
    # weights that are computed are zero as operators read them: of the graph, else of the model
    graph, spared = zeroed_reads(module, analysis.coupling, alive)
    reference = copy.deepcopy(analysis.model if graph is module else graph)
    changed = zeroed(reference, Plan(kept), spared)
    if graph is not module:
        with torch.no_grad():
            given = copy.deepcopy((signature.args, signature.kwargs))
            _compare(copy.deepcopy(analysis.model)(*given[0], **given[1]), module(*given[0]), True)
    for args in ((signature.args, signature.kwargs), *((one, {}) for one in others)):
        with torch.no_grad():
            ours = torch.func.functional_call(reference, changed, *copy.deepcopy(args))
            theirs = small(*copy.deepcopy(args)[0], **args[1])
        _compare(ours, theirs, exact)
    return small


def _compare(ours: Any, theirs: Any, exact: bool) -> None:
    pairs = zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True)
    for expected, found in pairs:
        assert expected.shape == found.shape
        if exact and expected.numel():
            scale = float(expected.abs().max()) + 1e-12
            assert float((expected - found).abs().max()) <= TOLERANCE * scale
