"""Find the units that are provably dead: nothing that is kept reads more of them than a constant.

Removing a unit takes its slice out of every tensor, so that the law of a rule decides where that
may differ: only at its consumers, which *read* the slice without passing it on. There the dropped
terms must add up to zero, or to a constant that can be added back. The search begins with all units
dropped and keeps what some consumer needs until none needs more, which finds the largest set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import fx

from fxprune.elimination.constant_values import ConstantValues
from fxprune.elimination.consumers import Consumer, consumers
from fxprune.elimination.entries import Need
from fxprune.graphs import source_line
from fxprune.guards import Guards, Ids, Mask
from fxprune.rules import Coupling, TensorGuard, Value


@dataclass(frozen=True)
class Refusal:
    """Say which units are kept although nothing that varies is read of them, and why."""

    units: Ids
    node: fx.Node
    text: str

    def described(self, target: str, count: int) -> str:
        """Return one line: the units, the reason, the operator and the line of code."""
        line = source_line(self.node)
        place = f" at {line}" if line else ""
        return (
            f"{count} of {target} are constant and kept: {self.text} "
            f"({self.node.name} = {self.node.target}{place})"
        )


@dataclass
class DeadUnits:
    """Hold which variables are kept, `alive` `[variables]`, what was refused, and all consumers."""

    alive: Mask
    consumers: list[Consumer]
    refused: list[Refusal] = field(default_factory=list)
    spared: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def dead_units_of(coupling: Coupling, facts: ConstantValues, units: Ids) -> DeadUnits:
    """Return which variables must be kept, of which `units` may be removed.

    Units that nothing but an operator without a way to take a constant keeps are refused with a
    reason; an axis that would become empty keeps one of its units (`spared`).
    """
    alive = np.ones(coupling.guards.size, dtype=bool)
    alive[units] = False
    for ranking in coupling.rankings:  # zeros do not tell that it is never chosen
        alive[coupling.guards.normal(ranking.guard)] |= ranking.chosen
    found = DeadUnits(alive, consumers(coupling, facts))
    _settle(found, refuse=False)
    _settle(found, refuse=True)
    before = alive.copy()
    while _spare(found, coupling):
        _settle(found, refuse=True, quiet=True)
    found.spared = np.flatnonzero(alive & ~before)
    return found


def _settle(found: DeadUnits, *, refuse: bool, quiet: bool = False) -> None:
    """Keep what some consumer needs, until none needs more."""
    reasons: dict[tuple[fx.Node, str], list[Ids]] = {}
    changed = True
    while changed:
        changed = False
        for reader in reversed(found.consumers):
            for need in reader.needs(found.alive):
                if need.refusal and not refuse:
                    continue
                kept = _keep(found.alive, need)
                changed |= len(kept) > 0
                if need.refusal and len(kept):
                    reasons.setdefault((reader.node, need.refusal), []).append(kept)
    if not quiet:
        for (node, text), units in reasons.items():
            found.refused.append(Refusal(np.unique(np.concatenate(units)), node, text))


def _keep(alive: Mask, need: Need) -> Ids:
    """Keep the variables of the rows that are needed; return those that were dropped until now."""
    ids = np.unique(need.guard[need.rows])
    new = ids[~alive[ids]]
    alive[new] = True
    return new


# ---- axes that would become empty ----------------------------------------------------------------


def _spare(found: DeadUnits, coupling: Coupling) -> bool:
    """Keep one index of every axis that would become empty; return whether there was one."""
    spared = False
    for g in _axes(coupling.guards, coupling.values.values()):
        rows = found.alive[g]
        if rows.all(axis=1).any():
            continue
        cheapest = int((~rows).sum(axis=1).argmin())
        found.alive[g[cheapest]] = True
        spared = True
    return spared


def _axes(guards: Guards, values: Iterable[Value]) -> Sequence[Ids]:
    seen: dict[int, Ids] = {}
    open_ = list(values)
    while open_:
        value = open_.pop()
        if isinstance(value, tuple):
            open_ += value
        elif isinstance(value, TensorGuard):
            seen |= {id(g): g for g in value.dims if g.shape[1] and len(g)}
    return [normal for g in seen.values() if (normal := guards.normal(g)).shape[1]]


def owners(targets: Sequence[object], units: Ids) -> Mapping[int, Ids]:
    """Return the units of each target, by its number, that are among `units`."""
    found: dict[int, Ids] = {}
    for k, target in enumerate(targets):
        mine = np.intersect1d(getattr(target, "units", np.zeros(0, dtype=np.int64)), units)
        if len(mine):
            found[k] = mine
    return found
