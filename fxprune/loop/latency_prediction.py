"""Make the cost model of a program's latency: export it at several widths, label, and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from fxprune import latency, onnx, pipeline
from fxprune.allocators import Choice
from fxprune.cost import Cost
from fxprune.errors import ExportError
from fxprune.guards import Ids, Mask
from fxprune.objectives.latency import Latency
from fxprune.passes import removing
from fxprune.passes.allocate import costed, planned
from fxprune.program import Part, Program, unheard
from fxprune.targets import BlockTarget, Selection

if TYPE_CHECKING:
    from onnx import ModelProto

TRIES = 40  # assignments of widths that are compared
SAMPLES = (1.0, 0.6, 0.3)  # kept shares of every target, for kernels predicted by elements
FEWEST = 2  # units kept of a target: at a width of 1 a graph loses operators
WIDE = 24  # units removed from a target at most, so that the graph keeps its form
Say = Callable[[str], None]


def kernel_model(
    program: Program, goal: Latency, batch: int, say: Say, part: Part = unheard
) -> latency.KernelModel:
    """Return the cost model of a program that is scored, for the device that a goal names.

    Raises Unlabelled where the graph does not show which size belongs to which width.
    """
    if any(isinstance(target, BlockTarget) for target in program[Selection].targets):
        raise latency.Unlabelled("parts of tensors are masked, which makes no kernel narrower")
    cost = costed(program)
    # the units of a target may be counted where no tensor has an axis of them: groups, heads
    axes = [*cost.every_axis(), *(target.units[:, None] for target in program[Selection].targets)]
    choices = _probes(program, cost, axes)
    say(f"latency: exporting the model at {len(choices)} widths")
    models: list[ModelProto] = []
    for alive in choices:
        part("latency: exports at other widths", len(models), len(choices))
        models.append(_drafted(program, cost, alive))
    feeds = [_feeds(program, model, batch) for model in models]
    graph = latency.labelled(models, feeds, [_sizes(axes, alive) for alive in choices])
    samples = [_sizes(axes, _scaled(program, cost, kept)) for kept in SAMPLES]
    file = Path(goal.table).expanduser() if goal.table is not None else latency.place()
    store = latency.Store.open(file, goal.threads)
    model = latency.KernelModel.of(graph, axes, samples, store, goal.threads, say, part)
    if not model.whole:
        raise latency.Unlabelled("no kernel of the graph can be timed by itself")
    return model


def _sizes(axes: Sequence[Ids], alive: Mask) -> list[int]:
    return [int(alive[g].all(axis=1).sum()) for g in axes]


def _scaled(program: Program, cost: Cost, kept: float) -> Mask:
    return _without(program, cost, [int(len(t) * (1.0 - kept)) for t in program[Selection].targets])


def _probes(program: Program, cost: Cost, axes: Sequence[Ids]) -> list[Mask]:
    """Return two to four choices at which no two axes have the same widths.

    None of them is the whole: graphs of smaller models are alike, while the whole one lacks what
    removal brings, such as the scale of attention whose heads have become smaller.
    """
    sizes = [len(target) for target in program[Selection].targets]
    random = np.random.default_rng(0)
    best: list[Mask] = []
    least = len(axes) + 1
    for number in range(TRIES):
        tried = [_without(program, cost, gone) for gone in _assigned(sizes, random, number)]
        tried.insert(0, _without(program, cost, [min(1, max(0, n - FEWEST)) for n in sizes]))
        for many in (2, 3, 4):
            clashes = _clashes(axes, tried[:many])
            if clashes < least:
                best, least = tried[:many], clashes
        if not least:
            break
    return best


def _assigned(
    sizes: Sequence[int], random: np.random.Generator, number: int
) -> tuple[list[int], ...]:
    """Return how many units each target loses, thrice: pairs that differ among equal sizes."""
    first, second, third = ([0] * len(sizes) for _ in range(3))
    for size in set(sizes):
        places = [k for k, one in enumerate(sizes) if one == size]
        most = max(0, size - FEWEST)  # units that may be removed
        reach = max(1, min(most - 1, WIDE, max(len(places), 8)))
        order = random.permutation(reach) if number else np.arange(reach)
        for n, k in enumerate(places):
            first[k] = min(most, 2 + int(order[n % reach]))
            second[k] = min(most, 2 + int(order[(n + n // reach) % reach]))
            third[k] = int(random.integers(0, most + 1)) if most else min(1, size - 1)
    return first, second, third


def _without(program: Program, cost: Cost, gone: Sequence[int]) -> Mask:
    alive = cost.whole()
    for target, count in zip(program[Selection].targets, gone, strict=True):
        alive[target.units[:count]] = False
    return alive


def _clashes(axes: Sequence[Ids], probes: Sequence[Mask]) -> int:
    """Count the axes that cannot be told from others, or that do not change."""
    sizes = list(zip(*(_sizes(axes, alive) for alive in probes), strict=True))
    staying = sum(len(set(one)) == 1 for one, g in zip(sizes, axes, strict=True) if g.shape[1])
    return len(axes) - len(set(sizes)) + staying


def _drafted(program: Program, cost: Cost, alive: Mask) -> ModelProto:
    """Return the ONNX graph of a choice."""
    done = pipeline.run(planned(program, cost, Choice(alive, 1.0)), removing())
    module, signature = done.module, done.signature
    shapes = signature.dynamic_shapes(module, batch_only=True)
    try:
        return onnx.draft(module, signature.args, signature.kwargs, dynamic_shapes=shapes)
    except ExportError as problem:
        raise latency.Unlabelled(str(problem)) from problem


def _feeds(program: Program, model: ModelProto, batch: int) -> dict[str, NDArray[Any]]:
    args, kwargs = latency.inputs_of(program.signature, batch)
    leaves = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    entries = list(model.graph.input)
    if len(entries) != len(leaves):
        raise latency.Unlabelled(f"the graph reads {len(entries)} of {len(leaves)} inputs")
    return {entry.name: onnx.to_array(leaf) for entry, leaf in zip(entries, leaves, strict=True)}
