"""What a choice costs, as tables over the options of single targets and of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fxprune.allocators.optimal.lattice import Axes, Lattice
from fxprune.cost import Table, Term
from fxprune.guards import Ids
from fxprune.objectives.counted import Ratio

Pair = tuple[int, int]
NEGLIGIBLE = 1e-7  # of the original's cost


@dataclass(frozen=True, eq=False)
class Tables:
    """Hold the share of the objective that is kept, as it depends on one and on two targets.

    cost(o) ≈ base + Σₖ single[k][oₖ] + Σⱼₖ pairs[j, k][oⱼ, oₖ]: the expansion of the cost about
    the anchor ("cut-HDMR", Rabitz & Aliş 1999), cut after the pairs. It is exact where no term
    makes three targets interact, and always where at most two of them are off the anchor.
    """

    base: float
    single: list[Table]
    pairs: dict[Pair, Table]

    def of(self, places: Sequence[int] | Ids) -> float:
        """Return the share that some options keep."""
        total = self.base + sum(float(t[n]) for t, n in zip(self.single, places, strict=True))
        return total + sum(float(t[places[j], places[k]]) for (j, k), t in self.pairs.items())


def tabulate(lattice: Lattice) -> Tables:
    """Return the tables of a problem's objective, corrected to be exact at the anchor."""
    listed = lattice.listed
    problem = listed.problem
    anchored = problem.choice(listed.made(lattice.counts(lattice.anchor))).achieved
    whole = problem.choice([])
    if isinstance(problem.objective, Ratio):
        return _of_units(lattice, anchored)
    terms = problem.objective.terms(problem.cost)
    if terms is None:
        return _looked_up(lattice, anchored)
    axes = Axes(lattice, problem.cost.axes, len(whole.alive))
    widths = [len(g) for g in problem.cost.axes]
    full = sum(float(term.table([widths[a] for a in term.axes])) for term in terms)
    tables = _expanded(lattice, axes, terms, whole.achieved / full)
    ratio = anchored / tables.base if tables.base else 1.0
    pairs = {pair: ratio * t for pair, t in tables.pairs.items() if abs(t).max() > NEGLIGIBLE}
    return Tables(anchored, [ratio * t for t in tables.single], pairs)


def _of_units(lattice: Lattice, anchored: float) -> Tables:
    """Return the share of units that is kept."""
    problem = lattice.listed.problem
    now = sum(map(len, problem.targets))
    share = problem.choice([]).achieved / max(1, now)
    gone = [e[o] for e, o in zip(lattice.listed.ends, lattice.options, strict=True)]
    single = [share * (n[at] - n) for n, at in zip(gone, lattice.anchor.tolist(), strict=True)]
    return Tables(anchored, single, {})


def _looked_up(lattice: Lattice, anchored: float) -> Tables:
    """Ask the objective for every option of every target, all others anchored."""
    listed, at = lattice.listed, lattice.anchor
    single: list[Table] = []
    for k, options in enumerate(lattice.options):
        table = np.zeros(len(options))
        for n in range(len(options)):
            places = at.copy()
            places[k] = n
            if n != at[k]:
                made = listed.made(lattice.counts(places))
                table[n] = listed.problem.choice(made).achieved - anchored
        single.append(table)
    return Tables(anchored, single, {})


def _expanded(lattice: Lattice, axes: Axes, terms: Sequence[Term], share: float) -> Tables:
    base, pairs = 0.0, dict[Pair, Table]()
    single: list[Table] = [np.zeros(len(options)) for options in lattice.options]
    for term in terms:
        sizes = [axes.base(a) for a in term.axes]
        here = float(term.table(sizes)) * share
        base += here
        ones: dict[int, Table] = {}
        for k in sorted(set().union(*(axes.targets(a) for a in term.axes))):
            ones[k] = share * term.table([axes.single(a, k) for a in term.axes]) - here
            single[k] = single[k] + ones[k]
        for j, k in _interacting(axes, term):
            both = share * term.table([axes.pair(a, j, k) for a in term.axes])
            rest = both - here - ones[j][:, None] - ones[k][None, :]
            if abs(rest).max() > 1e-3 * NEGLIGIBLE:
                pairs[j, k] = pairs.get((j, k), 0.0) + rest
    return Tables(base, single, pairs)


def _interacting(axes: Axes, term: Term) -> Iterator[Pair]:
    """Yield the pairs of targets whose widths a term may multiply.

    Two that only follow each other along one axis, as in a concatenation, do not interact where
    the term is affine in its size: they would be all pairs of a DenseNet.
    """
    found: set[Pair] = set()
    own = [axes.targets(a) for a in term.axes]
    for first, second in combinations(own, 2):
        found |= {(min(j, k), max(j, k)) for j in first for k in second if j != k}
    for place, axis in enumerate(term.axes):
        if len(own[place]) > 1:
            affine = _affine(axes, term, place)
            groups = [part.targets for part in axes.parts(axis)] if affine else [own[place]]
            found |= {pair for group in groups for pair in combinations(sorted(group), 2)}
    yield from sorted(found)


def _affine(axes: Axes, term: Term, place: int) -> bool:
    """Tell whether a term is affine in the size of one of its axes, by looking at three sizes."""
    sizes: list[object] = [axes.base(a) for a in term.axes]
    step = max(1.0, sizes[place] // 4)  # type: ignore[operator]
    sizes[place] = np.array([step, 2 * step, 3 * step])
    low, middle, high = np.broadcast_to(term.table(sizes), (3,)).tolist()
    return bool(abs(low + high - 2 * middle) <= 1e-9 * (abs(high) + 1.0))
