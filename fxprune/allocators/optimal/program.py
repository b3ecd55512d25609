"""The mixed-integer linear program whose solution is the best choice of options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators.optimal.lattice import Lattice
from fxprune.allocators.optimal.tables import Pair, Tables
from fxprune.cost import Table
from fxprune.guards import Ids

CELLS = (
    12000  # of pair tables that get a variable each; where there are more, sums take their place
)


@dataclass
class Program:
    """Gather variables, rows and costs: max value·x with lows ≤ A·x ≤ highs."""

    value: list[Table] = field(default_factory=list)
    cost: list[Table] = field(default_factory=list)
    low: list[Table] = field(default_factory=list)
    high: list[Table] = field(default_factory=list)
    size: int = 0
    whole: int = 0  # the first so many variables are whole numbers
    entries: list[tuple[int, Ids, Table]] = field(default_factory=list)
    rows: list[tuple[float, float]] = field(default_factory=list)

    def variables(self, cost: Table, value: Table, low: float, high: float) -> Ids:
        """Add variables and return their places."""
        n = len(cost)
        self.cost.append(cost)
        self.value.append(value)
        self.low.append(np.full(n, low))
        self.high.append(np.full(n, high))
        self.size += n
        return np.arange(self.size - n, self.size)

    def row(self, low: float, high: float, *parts: tuple[Ids, Table]) -> None:
        """Ask low ≤ Σ coefficients · variables ≤ high."""
        for places, coefficients in parts:
            self.entries.append((len(self.rows), places, coefficients))
        self.rows.append((low, high))

    def solve(self, low: float, high: float, seconds: float, gap: float) -> Table | None:
        """Return the best variables whose cost lies between two bounds, None where none are found.

        It is the best found, within a relative `gap` of the best there is, or when time is up.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        cost, value = np.concatenate(self.cost), np.concatenate(self.value)
        scale = 1.0 / max(1e-12, float(abs(cost).max(initial=0.0)))
        self.row(low * scale, high * scale, (np.arange(self.size), cost * scale))
        at = np.concatenate([np.full(len(places), n) for n, places, _ in self.entries])
        columns = np.concatenate([places for _, places, _ in self.entries])
        held = np.concatenate([one for *_, one in self.entries])
        matrix = csr_array((held, (at, columns)), shape=(len(self.rows), self.size))
        bounds = np.array(self.rows)
        self.rows.pop()
        self.entries.pop()
        found = milp(
            -value,
            integrality=(np.arange(self.size) < self.whole).astype(np.int64),
            bounds=Bounds(np.concatenate(self.low), np.concatenate(self.high)),
            constraints=LinearConstraint(matrix, bounds[:, 0], bounds[:, 1]),
            options={"time_limit": seconds, "mip_rel_gap": gap},
        )
        solution: NDArray[np.float64] | None = found.x
        return solution


def best(
    lattice: Lattice, tables: Tables, bracket: tuple[float, float], seconds: float, gap: float
) -> Ids | None:
    """Return the places of the best options whose cost lies within the bracket, if any do.

    Variables: xₖᵢ, one of each target's options. A pair's table C costs Σᵢⱼ Cᵢⱼ yᵢⱼ with marginals
    Σⱼ yᵢⱼ = xᵢ and Σᵢ yᵢⱼ = xⱼ (the local polytope; y is whole where x is). The pairs of a target
    with many, all of rank one (widths multiply), are one product of its width and a sum.
    """
    program = Program()
    n = len(lattice.options)
    values = [lattice.values(k) for k in range(n)]
    span = max(1e-12, sum(float(np.ptp(v)) for v in values))
    x = [program.variables(tables.single[k], values[k] / span, 0.0, 1.0) for k in range(n)]
    program.whole = program.size
    for places in x:
        program.row(1.0, 1.0, (places, np.ones(len(places))))
    rest, rays = dict(tables.pairs), None
    while rest and sum(table.size for table in rest.values()) > CELLS:
        rays = _rays(rest) if rays is None else [ray for ray in rays if ray.pair in rest]
        if not rays:
            break
        centre, rows = _star(rays)
        _sum(program, x, centre, rows)
        for other in rows:
            rest.pop((min(centre, other), max(centre, other)))
    for pair, table in rest.items():
        _cells(program, x, pair, table)
    low, high = bracket[0] - tables.base, bracket[1] - tables.base
    found = program.solve(low, high, seconds, gap)
    if found is None:
        return None
    return np.array([int(found[places].argmax()) for places in x], dtype=np.int64)


def _cells(program: Program, x: list[Ids], pair: Pair, table: Table) -> None:
    """Cost a pair of targets exactly, with one variable for each pair of options."""
    first, second = (x[k] for k in pair)
    cells = program.variables(table.ravel(), np.zeros(table.size), 0.0, 1.0).reshape(table.shape)
    for at, line in [*zip(first, cells, strict=True), *zip(second, cells.T, strict=True)]:
        program.row(0.0, 0.0, (line, np.ones(len(line))), (np.array([at]), -np.ones(1)))


def _sum(program: Program, x: list[Ids], centre: int, rows: dict[int, tuple[Table, Table]]) -> None:
    """Cost Σⱼ a·bⱼᵀ with zᵢ = xᵢ·S, S = Σⱼ bⱼ·xⱼ: Σᵢ zᵢ = S and min S·xᵢ ≤ zᵢ ≤ max S·xᵢ."""
    shape = next(iter(rows.values()))[0]
    least = sum(float(b.min()) for _, b in rows.values())
    most = sum(float(b.max()) for _, b in rows.values())
    z = program.variables(shape, np.zeros(len(shape)), min(0.0, least), max(0.0, most))
    parts = [(x[other], -b) for other, (_, b) in rows.items()]
    program.row(0.0, 0.0, (z, np.ones(len(z))), *parts)
    for at, one in zip(x[centre].tolist(), z.tolist(), strict=True):
        both = np.array([one, at])
        program.row(-np.inf, 0.0, (both, np.array([1.0, -most])))
        program.row(0.0, np.inf, (both, np.array([1.0, -least])))


class Ray(NamedTuple):
    """Hold a pair of targets as a product a·bᵀ, seen from one of them."""

    pair: Pair
    centre: int
    other: int
    shape: bytes  # equal for products of one a, which may be summed up
    size: int
    split: tuple[Table, Table]


def _rays(pairs: dict[Pair, Table]) -> list[Ray]:
    """Return what pairs are of rank one, from both sides."""
    found: list[Ray] = []
    for (j, k), table in pairs.items():
        for centre, other, one in ((j, k, table), (k, j, table.T)):
            if (split := _rank_one(one)) is not None:
                shape = (np.round(split[0], 6) + 0.0).tobytes()
                found.append(Ray((j, k), centre, other, shape, table.size, split))
    return found


def _star(rays: Sequence[Ray]) -> tuple[int, dict[int, tuple[Table, Table]]]:
    """Return the target whose pairs of one shape a·bᵀ are the most cells, and those pairs."""
    cells: dict[tuple[int, bytes], int] = {}
    for ray in rays:
        key = ray.centre, ray.shape
        cells[key] = cells.get(key, 0) + ray.size
    centre, shape = max(cells, key=cells.__getitem__)
    return centre, {r.other: r.split for r in rays if r.centre == centre and r.shape == shape}


def _rank_one(table: Table) -> tuple[Table, Table] | None:
    """Return a and b with table = a·bᵀ and the largest entry of a being 1, if there are any."""
    i, j = np.unravel_index(int(abs(table).argmax()), table.shape)
    a, b = table[:, j] / table[i, j], table[i].copy()
    close = float(abs(a[:, None] * b - table).max()) <= 1e-6 * abs(table[i, j])
    return (a, b) if close else None
