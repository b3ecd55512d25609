"""What a page shows of a pruning beyond its report: plain data that goes into files.

It is made when the report is, while the graph, the scores and the tables of kernels are there.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from fxprune._version import __version__
from fxprune.allocators import Choice
from fxprune.cost import Cost, OriginalWidths
from fxprune.graphs import module_of
from fxprune.metrics.registry import Scored
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.report.flow import Flow, flow_of
from fxprune.report.likeness import alike
from fxprune.report.staircases import Staircase, staircases
from fxprune.targets import Discovery, Selection

BINS = 24  # of a histogram
WIDE = 1e3  # scores whose largest is so many times the least are shown on a logarithmic axis


@dataclass(frozen=True)
class Drawn:
    """Hold a target of the original: which group of alike ones it is in, and its footprint."""

    name: str
    kind: str
    units: int
    kept: int
    exact: bool
    why: str
    group: int
    footprint: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Layer:
    """Hold a module with parameters: its width, parameters and MACs, before and after."""

    path: str
    type: str
    width: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class Histogram:
    """Hold how many units of a target scored between two edges, of those kept and those removed."""

    target: str
    edges: tuple[float, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]


@dataclass(frozen=True)
class Curve:
    """Hold what is lost with a share of a target removed: of the evaluation, or as a metric says.

    `lost` says of what.
    """

    target: str
    lost: str
    shares: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Picture:
    """Hold the coupling, layers, scores and kernels of a pruning, its specification and origin."""

    model: str
    spec: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    targets: tuple[Drawn, ...] = ()
    parameters: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()  # shapes
    flow: Flow = field(default_factory=lambda: Flow((), ()))
    layers: tuple[Layer, ...] = ()
    scores: tuple[Histogram, ...] = ()
    curves: tuple[Curve, ...] = ()
    kernels: tuple[Staircase, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the picture as plain data."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the picture as JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Picture:
        """Return the picture that `to_json` wrote; raises pydantic's error for another text."""
        return TypeAdapter(cls).validate_json(text)

    @classmethod
    def of(cls, program: Program, timed: bool = False) -> Picture:
        """Draw a program that has been allocated, in terms of the original model.

        Only where it was `timed`, it may know how long kernels take.
        """
        artist, discovery = _Artist(program), program[OriginalWidths].discovery
        plan = program[Plan]
        return cls(
            model=discovery.module_types.get("", "").rpartition(".")[2] or "model",
            spec=dict(plan.spec),
            inputs=dict(plan.inputs) if plan.inputs is not None else None,
            versions={
                "fxprune": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "machine": f"{platform.system()} {platform.machine()}",
            },
            targets=tuple(artist.targets()),
            parameters=tuple(artist.parameters()),
            flow=flow_of(discovery),
            layers=tuple(artist.layers()),
            scores=tuple(histograms(program)),
            curves=tuple(curves(program)),
            kernels=kernels(program) if timed else (),
        )


class _Artist:
    """Count what is kept of the original."""

    def __init__(self, program: Program) -> None:
        widths = program[OriginalWidths]
        self.discovery: Discovery = widths.discovery
        self.cost: Cost = widths.cost
        self._alive = widths.alive(program[Plan].kept)
        self._whole = widths.cost.whole()

    @cached_property
    def counts(self) -> tuple[list[int], list[int]]:
        """Return the size of every axis of the cost, before and after."""
        return self.cost.counts(self._whole), self.cost.counts(self._alive)

    def targets(self) -> Iterator[Drawn]:
        """Yield every target of the original, those that were not selected too."""
        groups = alike(self.discovery)
        for target, group in zip(self.discovery.targets, groups, strict=True):
            kept = int(self._alive[target.units].sum())
            about = (target.name, target.kind, len(target), kept, target.exact, target.why)
            yield Drawn(*about, group, target.footprint)

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Yield the name and the two shapes of every parameter."""
        before, after = self.counts
        for name, axes, _, owned in self.cost.tensors:
            if owned:
                yield name, tuple(before[a] for a in axes), tuple(after[a] for a in axes)

    def layers(self) -> Iterator[Layer]:
        """Yield the modules that hold parameters or multiply, in the order of the graph."""
        sizes: dict[str, tuple[int, int]] = {}
        widths: dict[str, tuple[int, int]] = {}
        for name, before, after in self.parameters():
            path = name.rpartition(".")[0]
            first = sizes.get(path, (0, 0))
            sizes[path] = first[0] + prod(before), first[1] + prod(after)
            if before and (path not in widths or len(before) > 1):
                widths.setdefault(path, (before[0], after[0]))
        macs = self._macs(set(sizes))
        for path in dict.fromkeys([*sizes, *macs]):
            yield Layer(
                path,
                self.discovery.module_types.get(path, "").rpartition(".")[2],
                widths.get(path, (0, 0)),
                sizes.get(path, (0, 0)),
                macs.get(path, (0, 0)),
            )

    def _macs(self, paths: set[str]) -> dict[str, tuple[int, int]]:
        """Return the MACs of each module, of those that hold the weights where there are such."""
        before, after = (self.cost.macs_by_node(one) for one in (self._whole, self._alive))
        found: dict[str, tuple[int, int]] = {}
        for node, count in before.items():
            read = [str(one.target) for one in node.all_input_nodes if one.op == "get_attr"]
            owners = {name.rpartition(".")[0] for name in read} & paths
            path = owners.pop() if len(owners) == 1 else module_of(node)
            mine = found.get(path, (0, 0))
            found[path] = mine[0] + count, mine[1] + after[node]
        return found


def histograms(program: Program) -> Iterator[Histogram]:
    """Yield how the scores of each selected target lie; those of the last step."""
    if Scored not in program or Choice not in program or Selection not in program:
        return
    alive = program[Choice].alive
    for target, scores in zip(program[Selection].targets, program[Scored].scores, strict=True):
        if not len(scores):
            continue
        edges, kept = _edges(scores), np.asarray(alive[target.units], dtype=bool)
        counted = [np.histogram(scores[one], edges)[0].tolist() for one in (kept, ~kept)]
        yield Histogram(target.name, tuple(map(_short, edges)), *map(tuple, counted))


def _edges(scores: Any) -> Any:
    low, high = float(scores.min()), float(scores.max())
    if low > 0.0 and high / low > WIDE:
        edges = np.geomspace(low, high, BINS + 1)
        edges[[0, -1]] = low, high
        return edges
    return np.linspace(low, high if high > low else low + max(abs(low), 1e-12), BINS + 1)


def curves(program: Program) -> Iterator[Curve]:
    """Yield what was measured, or is known, to be lost with each share of a target."""
    if Scored not in program or Selection not in program:
        return
    targets = program[Selection].targets
    for target, losses in zip(targets, program[Scored].losses, strict=False):
        count = min(33, len(losses))
        at = np.unique(np.linspace(0, max(0, len(losses) - 1), count).astype(int))
        shares = tuple(_short((k + 1) / len(losses)) for k in at)
        yield Curve(target.name, "loss", shares, tuple(_short(losses[k]) for k in at))
    chosen = program.get(Choice)
    for number, (shares_, drops) in (chosen.curves if chosen is not None else {}).items():
        listed = tuple(map(_short, shares_)), tuple(map(_short, drops))
        yield Curve(targets[number].name, "evaluation", *listed)


def kernels(program: Program) -> tuple[Staircase, ...]:
    """Return how long the kernels of the graph take over their widths, where they were timed."""
    from fxprune.latency import KernelModel  # late: only where there was a latency it is loaded

    if KernelModel not in program or Choice not in program:
        return ()
    return staircases(program[KernelModel], program[Choice].alive)


def _short(value: Any) -> float:
    """Return a number as precise as a page shows it."""
    return float(f"{float(value):.4g}")
