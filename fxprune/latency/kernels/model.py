"""Predict the latency of a model at any widths from the times of its kernels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import onnx

from fxprune.cost import Cost, Term
from fxprune.cost.terms import Sizes
from fxprune.errors import FxpruneError
from fxprune.guards import Ids, Mask
from fxprune.latency.kernels.graphs import Graph
from fxprune.latency.kernels.groups import Group, Widths, grouped
from fxprune.latency.kernels.store import Store
from fxprune.latency.kernels.tables import Table, tabulated, wanted
from fxprune.latency.kernels.timing import microseconds
from fxprune.objectives.registry import ROUNDINGS
from fxprune.program import Part, unheard

Say = Callable[[str], None]
Known = dict[tuple[int, Widths], float]


@dataclass(frozen=True, eq=False)
class KernelModel:
    """Hold the groups of a graph with the table of each: the latency is the sum of them all.

    `axes` are the guards of the axes that labels name; `graph` is the same graph at any widths,
    which can be run where measuring is better than predicting. `scale` is the share of the
    original's latency that the whole of this graph takes, where something is removed already.
    """

    graph: Graph
    axes: Sequence[Ids]
    groups: Sequence[Group]
    tables: Sequence[Table]
    scale: float = 1.0
    _known: Known = field(default_factory=dict)
    _placed: dict[str, Any] = field(default_factory=dict)  # for the cost asked of last

    @classmethod
    def of(
        cls,
        graph: Graph,
        axes: Sequence[Ids],
        samples: Sequence[Sequence[int]],
        store: Store,
        threads: int,
        say: Say,
        part: Part = unheard,
    ) -> KernelModel:
        """Time what the store does not know, and return the model.

        `part` is told how many kernels are timed, of how many.
        `samples` are the sizes of all axes at a few choices, that of all widths first.
        """
        groups, _ = grouped(graph)
        families = _families(groups, samples)
        new = sum(
            store.get(key, one) is None
            for key, family in families.items()
            for one in wanted(*family)
        )
        timer = _Timer(store, threads, say, part, new)
        try:
            made = {key: tabulated(*family, timer) for key, family in families.items()}
        finally:
            store.save()
        tables = [replace(made[group.family], group=group) for group in groups]
        return cls(graph, axes, groups, tables)

    def scaled(self, scale: float) -> KernelModel:
        """Return the model of a graph that takes a share of what the original takes."""
        return replace(self, scale=scale)

    def share(self, cost: Cost, alive: Mask) -> float:
        """Return the latency of what is alive, as a share of the original's."""
        places = self._places(cost)
        counts = cost.counts(alive)
        now = self.microseconds([counts[place] for place in places])
        return self.scale * now / self.whole

    def microseconds(self, sizes: Sequence[int]) -> float:
        """Return the sum over all groups, given the size of each of the axes."""
        total = 0.0
        for number, group in enumerate(self.groups):
            key = number, tuple([sizes[axis] for axis in group.axes])
            if key not in self._known:
                self._known[key] = float(self.tables[number].at(key[1]))
            total += self._known[key]
        return total

    @cached_property
    def whole(self) -> float:
        """Return the microseconds of the whole graph."""
        return self.microseconds([len(g) for g in self.axes])

    def resized(self, alive: Mask | None) -> onnx.ModelProto:
        """Return the graph of what is alive (None: all), with weights that are made up."""
        if alive is None:
            return self.graph.at([len(g) for g in self.axes])
        return self.graph.at([int(alive[g].all(axis=1).sum()) for g in self.axes])

    def _places(self, cost: Cost) -> list[int]:
        """Return the places of the axes among those of a cost."""
        if self._placed.get("of") is not cost:
            self._placed.update({"of": cost, "places": [cost.place(g) for g in self.axes]})
        places: list[int] = self._placed["places"]
        return places

    def terms(self, cost: Cost, factor: float) -> list[Term]:
        """Return a term a group, whose sum is about `share` times a factor."""
        factor *= self.scale / self.whole
        places = self._places(cost)
        return [
            Term(tuple(places[axis] for axis in group.axes), partial(_term, table, factor))
            for group, table in zip(self.groups, self.tables, strict=True)
        ]

    @cached_property
    def roundings(self) -> tuple[int, ...]:
        """Return the multiples that widths should be of, the coarsest first: where steps lie.

        The step that most of the time is spent at counts, and the finer ones follow.
        """
        votes: dict[int, float] = defaultdict(float)
        for table in self.tables:
            for stairs in table.stairs:
                votes[stairs.step] += float(table.values.max())
        steps = [step for step, _ in sorted(votes.items(), key=lambda v: -v[1]) if step > 1]
        if not steps:
            return ROUNDINGS
        return tuple(steps[0] >> k for k in range(steps[0].bit_length()))


def _families(
    groups: Sequence[Group], samples: Sequence[Sequence[int]]
) -> dict[str, tuple[Group, Widths, list[Widths]]]:
    """Return for each family its largest group, its greatest widths, and samples of its widths."""
    found: dict[str, tuple[Group, Widths, list[Widths]]] = {}
    for group in groups:
        listed = [tuple(sizes[axis] for axis in group.axes) for sizes in samples]
        most = listed[0]
        if group.family in found:
            before, widest, sampled = found[group.family]
            widest = tuple(map(max, widest, most))
            if before.elements(before.sizes(sampled[0])) >= group.elements(group.sizes(most)):
                group, listed = before, sampled
            found[group.family] = group, widest, listed
        else:
            found[group.family] = group, most, listed
    return found


def _term(table: Table, factor: float, sizes: Sizes) -> Any:
    return factor * table.smooth(sizes)


class _Timer:
    """Ask the store first, and time what it does not hold, saying how far that is."""

    def __init__(self, store: Store, threads: int, say: Say, part: Part, new: int) -> None:
        self._store, self._threads, self._part = store, threads, part
        self._done, self._all = 0, new
        if new:
            say(f"latency: {new} kernels to time; the times go into {store.path}")

    def __call__(self, group: Group, widths: Widths) -> float:
        known = self._store.get(group.family, widths)
        if known is None:
            if not self._done:
                self._part("latency: kernels timed", 0, self._all)
            known = self._measured(group, widths)
            self._done += 1
            self._part("latency: kernels timed", self._done, max(self._done, self._all))
        return known

    def _measured(self, group: Group, widths: Widths) -> float:
        """Return microseconds; none for what cannot run apart, as it reads sizes, not data.

        Only what was measured is kept: a kernel may fail to run for want of memory, too.
        """
        try:
            found = microseconds(*group.at(widths), self._threads)
        except FxpruneError:
            raise
        except Exception:  # ONNX Runtime's exceptions share no public base class
            return 0.0
        self._store.put(group.family, group.about, widths, found)
        return found
