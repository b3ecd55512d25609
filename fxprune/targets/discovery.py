"""Targets: units that can be removed, grouped by footprint, and what is pinned, with reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import fx

from fxprune.graphs import source_line, tensors_of
from fxprune.guards import Ids, distinct, numbered
from fxprune.rules import Coupling, TensorGuard

# the roles that operators give their axes, the most telling first, and the kind each makes
KINDS = {
    "head": "head",
    "expert": "expert",
    "head_dim": "head_dim",
    "hidden": "hidden",
    "group": "group",
    "channel": "channel",
    "inner": "head_dim",
    "stack": "expert",
    "feature": "hidden",
}
# pins that nobody would expect otherwise, and those that are so of a factor: the 3 of a fused qkv
UNREMARKABLE = {"a spatial or kernel axis keeps its size"}
UNREMARKABLE_FACTORS = {
    "this index is selected by its number",
    "every slice of this axis is used by itself",
}
ALL_KINDS = tuple(dict.fromkeys(KINDS.values()))
SELECTABLE = (*ALL_KINDS, "block", "all")  # blocks are parts of one tensor, made where asked for


@dataclass(frozen=True, eq=False)
class Target:
    """Hold the units (variable ids, `[n]`) that share one footprint.

    `footprint` lists the parameter axes that each unit has a part in; `exact` says that removing a
    unit equals zeroing its weights, or where the best are chosen, that it never wins; `why` names
    the operator where it does not. Targets of one `structure` are equal in all but names and sizes:
    it lists, sorted, which axis of which argument of which operator the units are.
    """

    name: str
    kind: str
    units: Ids
    footprint: tuple[tuple[str, int], ...]
    exact: bool
    why: str = ""
    structure: tuple[str, ...] = field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.units)

    def __str__(self) -> str:
        size = f"{len(self)} {self.kind} units"
        return f"{self.name}: {size}" + ("" if self.exact else f", approximate ({self.why})")

    @property
    def makers(self) -> list[str]:
        """Return the parameters that make the units: those whose axis 0 they are, else all."""
        made = [name for name, dim in self.footprint if dim == 0]
        return made or [name for name, _ in self.footprint]

    def matches(self, pattern: str) -> bool:
        """Tell whether a shell pattern names the target, or what makes its units.

        That is a parameter whose axis 0 they are, the module it belongs to, or one around that:
        `layer3` and `layer3.*` name what layer 3 makes, not what it reads.
        """
        names = {self.name, self.name.split(":")[0]}
        for parameter in self.makers:
            parts = parameter.split(".")
            names |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        return any(fnmatchcase(name, pattern) for name in names)


@dataclass(frozen=True)
class Pinned:
    """Say what is pinned: a parameter axis, why, at which operator, at which line of code."""

    unit: str
    reason: str
    operator: str
    source_line: str

    @property
    def why(self) -> str:
        """Return the reason, the operator and the line."""
        # nobody looks for the node of an output
        operator = "" if self.operator == "output = output" else self.operator
        place = f" at {self.source_line}" if self.source_line else ""
        told = (operator + place).strip()
        return self.reason + (f" ({told})" if told else "")

    def __str__(self) -> str:
        return f"{self.unit} is pinned: {self.why}"


@dataclass(frozen=True)
class ParameterAxis:
    """Hold the normalised guard of one axis of one parameter."""

    name: str
    dim: int
    guard: Ids
    raw: Ids


class Discovery:
    """Read targets, pins and coverage off a solved coupling."""

    state: ClassVar[str] = "coupled"

    def __init__(self, module: fx.GraphModule, coupling: Coupling) -> None:
        self.module = module
        self.coupling = coupling
        self._tensors = tensors_of(module)
        self.parameters = dict(self._parameters())

    def _parameters(self) -> Iterator[tuple[str, tuple[ParameterAxis, ...]]]:
        seen: set[int] = set()
        for node in self.module.graph.nodes:
            if node.op != "get_attr":
                continue
            tensor, value = self._tensors.get(str(node.target)), self.coupling.values[node]
            known = id(tensor) in seen
            if known or not isinstance(tensor, torch.nn.Parameter):
                continue
            seen.add(id(tensor))
            if isinstance(value, TensorGuard):
                name = str(node.target)
                yield (
                    name,
                    tuple(
                        ParameterAxis(name, d, self.coupling.guards.normal(g), g)
                        for d, g in enumerate(value.dims)
                    ),
                )

    @cached_property
    def axes(self) -> list[ParameterAxis]:
        """Return the axes of all parameters, in the order of the graph."""
        return [axis for axes in self.parameters.values() for axis in axes]

    @cached_property
    def module_types(self) -> dict[str, str]:
        """Return the full class name of every module that the graph comes from, by its path."""
        stacks = (node.meta.get("nn_module_stack") or {} for node in self.module.graph.nodes)
        found = {path: kind for stack in stacks for path, kind in stack.values()}
        return {
            p: k if isinstance(k, str) else f"{k.__module__}.{k.__qualname__}"
            for p, k in found.items()
        }

    def types(self, target: Target) -> set[str]:
        """Return the class names, bare and in full, of the modules that make a target's units."""
        owners = {name.rpartition(".")[0] for name in target.makers}
        full = {self.module_types[owner] for owner in owners if owner in self.module_types}
        return full | {name.rpartition(".")[2] for name in full}

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Return the targets of two or more units, in the order of the graph."""
        n = self.coupling.guards.size
        signature = np.zeros(n, dtype=np.uint64)
        random = np.random.default_rng(0)
        for guard in {id(axis.guard): axis.guard for axis in self.axes}.values():
            for column in guard.T:  # axes of one guard have the same units
                ids, place = numbered(column[column > 0])
                counts = np.bincount(place, minlength=len(ids))
                salt, odd = random.integers(1, 2**63, size=2, dtype=np.uint64)
                with np.errstate(over="ignore"):
                    signature[ids] += salt + counts.astype(np.uint64) * (odd | np.uint64(1))
        units = np.flatnonzero(signature)
        _, label = np.unique(signature[units], return_inverse=True)
        groups = np.split(
            units[np.argsort(label, kind="stable")], np.cumsum(np.bincount(label))[:-1]
        )
        return self._named([group for group in groups if len(group) > 1])

    def _named(self, groups: list[Ids]) -> tuple[Target, ...]:
        owner = np.full(self.coupling.guards.size, -1)
        for k, group in enumerate(groups):
            owner[group] = k
        footprints: list[list[tuple[str, int]]] = [[] for _ in groups]
        order: list[int] = []
        inside: dict[int, list[int]] = {}
        for axis in self.axes:
            if (found := inside.get(id(axis.guard))) is None:
                found = inside[id(axis.guard)] = distinct(owner[axis.guard]).tolist()
            for k in found:
                if k >= 0:
                    footprints[k].append((axis.name, axis.dim))
                    order.append(k)
        kinds, whys = self._kinds(), self._approximate()
        reasons = [f"{mark.node}: {mark.text}" for mark in self.coupling.approximate]
        targets: list[Target] = []
        used: dict[str, int] = {}
        for k in dict.fromkeys(order):
            kind = _first(kinds[groups[k]], [*KINDS.values()], "hidden")
            why = _first(whys[groups[k]], reasons, "")
            name = f"{_owner(footprints[k])}:{kind}"
            used[name] = used.get(name, 0) + 1
            label = name if used[name] == 1 else f"{name}#{used[name]}"
            units, footprint = groups[k], tuple(footprints[k])
            structure = self._structure(kind, footprint)
            targets.append(Target(label, kind, units, footprint, not why, why, structure=structure))
        return tuple(targets)

    def _structure(self, kind: str, footprint: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """Return what a footprint looks like in the graph, without names and sizes."""
        return (kind, *sorted(f"{r}.{dim}" for name, dim in footprint for r in self._readers[name]))

    @cached_property
    def _readers(self) -> dict[str, list[str]]:
        """Return for each parameter the operators that read it, as which argument."""
        readers: dict[int, list[str]] = {}
        for node in self.module.graph.find_nodes(op="get_attr"):
            listed = readers.setdefault(id(self._tensors.get(str(node.target))), [])
            for user in node.users:
                arguments = [*enumerate(user.args), *user.kwargs.items()]
                places = [place for place, arg in arguments if arg is node] or ["listed"]
                listed += [f"{user.target}({place})" for place in places]
        return {n: readers[id(self._tensors[n])] for n in self.parameters}

    def _kinds(self) -> Ids:
        """Return for each variable the place in KINDS of its most telling role, or -1."""
        rank = {role: k for k, role in enumerate(KINDS)}
        best = np.full(self.coupling.guards.size, len(KINDS))
        for mark in self.coupling.roles:
            ids = self.coupling.guards.normal(mark.guard)
            best[ids] = np.minimum(best[ids], rank[mark.text])
        return np.where(best < len(KINDS), best, -1)

    def _approximate(self) -> Ids:
        """Return for each variable the number of the first mark that makes it inexact, or -1."""
        first = np.full(self.coupling.guards.size, -1)
        chosen = np.zeros(len(first), dtype=bool)
        for ranking in self.coupling.rankings:
            chosen[self.coupling.guards.normal(ranking.guard)] |= ranking.chosen
        for k, mark in reversed(list(enumerate(self.coupling.approximate))):
            ids = self.coupling.guards.normal(mark.guard)
            first[ids[~chosen[ids]] if mark.weighed else ids] = k
        return first

    @cached_property
    def pinned(self) -> tuple[Pinned, ...]:
        """Return the parameter axes with pinned indices, without sizes of 1 and kernels."""
        nodes = {node.name: node for node in self.module.graph.nodes}
        found: list[Pinned] = []
        for axis in self.axes:
            for reason, count, whole in self.coupling.guards.blame(axis.raw):
                if reason.text in UNREMARKABLE | (set() if whole else UNREMARKABLE_FACTORS):
                    continue
                at = nodes.get(reason.node)
                place = f"axis {axis.dim}" if whole else f"a factor of axis {axis.dim}"
                size = f"{count} of {len(axis.raw)}" if whole else f"{count} values"
                unit = f"{axis.name} {place} ({size})"
                operator = f"{at.name} = {at.target}" if at is not None else reason.node
                line = source_line(at) if at is not None else ""
                found.append(Pinned(unit, reason.text, operator, line))
        return tuple(found)

    @cached_property
    def coverage(self) -> float:
        """Return the share of parameters that lie in at least one unit of a target."""
        free = np.zeros(self.coupling.guards.size, dtype=bool)
        for target in self.targets:
            free[target.units] = True
        total = covered = 0.0
        for axes in self.parameters.values():
            numel, bare = 1.0, 1.0
            for axis in axes:
                numel *= len(axis.raw)
                if axis.guard.shape[1] and len(axis.raw):
                    bare *= 1.0 - float(free[axis.guard].any(axis=1).mean())
            total += numel
            covered += numel * (1.0 - bare)
        return covered / total if total else 0.0


def _owner(footprint: list[tuple[str, int]]) -> str:
    """Name a target after the first module that produces its units: the first axis 0, else any."""
    made = [name for name, dim in footprint if dim == 0] or [footprint[0][0]]
    return made[0].rpartition(".")[0] or made[0]


def _first(places: Ids, texts: Sequence[str], default: str) -> str:
    """Return the text at the first place that there is."""
    found = places[places >= 0]
    return texts[int(found[0])] if len(found) else default
