"""Make the cost model of a program's latency: export it at several widths, label, and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.utils import _pytree as pytree

from fxprune import pipeline
from fxprune.allocators import Choice
from fxprune.blocks import BlockTarget
from fxprune.cost import Cost
from fxprune.devices import inputs_of
from fxprune.errors import ExportError
from fxprune.guards import Ids, Mask
from fxprune.kernels import KernelModel, Store, Unlabelled, place
from fxprune.kernels.graphs import Array, labelled
from fxprune.objectives.latency import Latency
from fxprune.onnx import draft
from fxprune.onnx.check import to_array
from fxprune.origin import Origin
from fxprune.program import Program
from passes import removing
from passes.allocate import costed, planned

TRIES = 40  # assignments of widths that are compared
SAMPLES = (1.0, 0.6, 0.3)  # shares of every target that are kept where kernels go by elements
FEWEST = 2  # units that stay of a target: at a width of 1 a graph loses operators
WIDE = 24  # units that go from a target at most, so that the graph stays what it is
Say = Callable[[str], None]


def foretold(program: Program, goal: Latency, batch: int, say: Say) -> KernelModel:
    """Return the cost model of a program that is scored, for the device that a goal names.

    Raises Unlabelled where the graph does not show which size belongs to which width.
    """
    if any(isinstance(target, BlockTarget) for target in program.selected):
        raise Unlabelled("parts of tensors are masked, which makes no kernel narrower")
    cost = costed(program)
    # the units of a target may be counted where no tensor has an axis of them: groups, heads
    axes = [*cost.every_axis(), *(target.units[:, None] for target in program.selected)]
    choices = _probes(program, cost, axes)
    say(f"latency: exporting the model at {len(choices)} widths")
    models = [_drafted(program, cost, alive) for alive in choices]
    feeds = [_feeds(program, model, batch) for model in models]
    graph = labelled(models, feeds, [_sizes(axes, alive) for alive in choices])
    samples = [_sizes(axes, _scaled(program, cost, kept)) for kept in SAMPLES]
    file = Path(goal.table).expanduser() if goal.table is not None else place()
    store = Store.open(file, goal.threads)
    model = KernelModel.of(graph, axes, samples, store, goal.threads, say)
    if not model.whole:
        raise Unlabelled("no kernel of the graph can be timed by itself")
    return model


def _sizes(axes: Sequence[Ids], alive: Mask) -> list[int]:
    return [int(alive[g].all(axis=1).sum()) for g in axes]


def _scaled(program: Program, cost: Cost, kept: float) -> Mask:
    return _without(program, cost, [int(len(t) * (1.0 - kept)) for t in program.selected])


def _probes(program: Program, cost: Cost, axes: Sequence[Ids]) -> list[Mask]:
    """Return two to four choices at which no two axes have the same widths.

    None of them is the whole: graphs of smaller models are alike, while the whole one lacks what
    removal brings, such as the scale of attention whose heads have become smaller.
    """
    sizes = [len(target) for target in program.selected]
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
    """Return how many units leave each target, thrice: pairs that differ among equal sizes."""
    first, second, third = ([0] * len(sizes) for _ in range(3))
    for size in set(sizes):
        places = [k for k, one in enumerate(sizes) if one == size]
        most = max(0, size - FEWEST)  # units that may go
        reach = max(1, min(most - 1, WIDE, max(len(places), 8)))
        order = random.permutation(reach) if number else np.arange(reach)
        for n, k in enumerate(places):
            first[k] = min(most, 2 + int(order[n % reach]))
            second[k] = min(most, 2 + int(order[(n + n // reach) % reach]))
            third[k] = int(random.integers(0, most + 1)) if most else min(1, size - 1)
    return first, second, third


def _without(program: Program, cost: Cost, gone: Sequence[int]) -> Mask:
    alive = cost.whole()
    for target, count in zip(program.selected, gone, strict=True):
        alive[target.units[:count]] = False
    return alive


def _clashes(axes: Sequence[Ids], probes: Sequence[Mask]) -> int:
    """Count the axes that are told from no other, or that stay as they are."""
    sizes = list(zip(*(_sizes(axes, alive) for alive in probes), strict=True))
    staying = sum(len(set(one)) == 1 for one, g in zip(sizes, axes, strict=True) if g.shape[1])
    return len(axes) - len(set(sizes)) + staying


def _drafted(program: Program, cost: Cost, alive: Mask) -> onnx.ModelProto:
    """Return the ONNX graph of a choice."""
    assert program.discovery is not None
    origin = program.origin or Origin(program.discovery, program.selected, cost)
    chosen = planned(program.with_(origin=origin), cost, Choice(alive, 1.0))
    done = pipeline.run(chosen, removing())
    module, signature = done.module, done.signature
    shapes = signature.dynamic_shapes(module)
    try:
        return draft(module, signature.args, signature.kwargs, dynamic_shapes=shapes)
    except ExportError as problem:
        raise Unlabelled(str(problem)) from problem


def _feeds(program: Program, model: onnx.ModelProto, batch: int) -> dict[str, Array]:
    args, kwargs = inputs_of(program.signature, batch)
    leaves = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    entries = list(model.graph.input)
    if len(entries) != len(leaves):
        raise Unlabelled(f"the graph reads {len(entries)} of {len(leaves)} inputs")
    return {entry.name: to_array(leaf) for entry, leaf in zip(entries, leaves, strict=True)}
