"""Explanations: what leaves together with this, and why; why this cannot leave, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath

import numpy as np

from fxprune.errors import InputError, unknown
from fxprune.targets import Discovery, Target, couple
from fxprune.targets.alone import OUTPUT
from fxprune.targets.chains import NEVER, Axis, Cause, Chains, Link, placed
from fxprune.targets.discovery import UNREMARKABLE, ParameterAxis

NO_RULE = "no rule for "
SHOWN = 12  # tied axes that are printed of one target
NEXT = {  # how a reason begins: what can be done about it
    NO_RULE: "add a rule from your own package: fxprune.extend, see docs/plugins.md",
    OUTPUT: "the caller's outputs keep their shapes; what feeds them can still become narrower",
    NEVER: "an input keeps its shape: there is nothing to do",
    "the rule of ": "the rule fails here: report it, or replace it from your own package",
}


@dataclass(frozen=True)
class Tied:
    """Say that an axis of a parameter leaves with the units of a target, and through what."""

    parameter: str
    axis: int
    links: tuple[Link, ...]

    def __str__(self) -> str:
        names = [
            one.operator.split(".")[1] if "." in one.operator else one.operator
            for one in self.links
        ]
        place = self.links[-1].source if self.links else ""
        at = f" ({PurePath(place).name})" if place else ""
        return f"{self.parameter} axis {self.axis}" + (
            f"  via {_short(names)}{at}" if names else ""
        )


@dataclass(frozen=True)
class Together:
    """Say what leaves with one unit of a target."""

    target: str
    kind: str
    units: int
    exact: bool
    why: str
    tied: tuple[Tied, ...]

    def __str__(self) -> str:
        exact = "exact" if self.exact else f"approximate: {self.why}"
        lines = [f"{self.target}: {self.units} {self.kind} units ({exact}). Each takes with it:"]
        lines += [f"  {one}" for one in self.tied[:SHOWN]]
        if len(self.tied) > SHOWN:
            lines.append(f"  … and {len(self.tied) - SHOWN} more axes (all of them with --json)")
        return "\n".join(lines)


@dataclass(frozen=True)
class Held:
    """Say that an axis cannot leave: how many of its indices, the first cause, what to do."""

    parameter: str
    axis: int
    indices: int
    cause: Cause
    step: str
    freed: int | None = None  # parameters that a rule could free at the most

    def __str__(self) -> str:
        cause = self.cause
        said = [f"{self.parameter} axis {self.axis}: {self.indices} indices cannot leave"]
        said.append(
            f"  because {cause.node} ({cause.operator}): {cause.reason}" + placed(cause.source)
        )
        said += [f"  reached: {one}" for one in cause.links]
        more = "" if self.freed is None else f" (frees {self.freed:,} parameters at the most)"
        return "\n".join([*said, *([f"  next: {self.step}{more}"] if self.step else [])])


@dataclass(frozen=True)
class Explanation:
    """Hold what leaves together and why, and what cannot leave and why, of a part of a model."""

    what: str
    together: tuple[Together, ...] = ()
    held: tuple[Held, ...] = ()
    chain: tuple[Link, ...] | None = None
    verdict: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return the explanation as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [self.verdict] if self.verdict else []
        parts += [f"  {number}. {one}" for number, one in enumerate(self.chain or (), 1)]
        parts += [str(one) for one in (*self.together, *self.held)]
        return "\n".join(parts)


class Explainer:
    """Explain parts of one coupled model."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._chains = Chains(discovery.module, discovery.coupling)

    def of(self, what: str | None = None) -> Explanation:
        """Explain a module, a parameter or a target, or all that cannot leave.

        Raises InputError for a name that is none of these.
        """
        if what is None:
            return Explanation("all", held=self._held(self._discovery.axes, once=True))
        targets = [one for one in self._discovery.targets if one.matches(what)]
        axes = [axis for axis in self._discovery.axes if _inside(axis.name, what)]
        if not targets and not axes:
            raise InputError(f"explain: {unknown('module or target', what, self._names())}")
        held = self._held(axes)
        return Explanation(what, tuple(map(self._together, targets)), held)

    def pair(self, first: str, second: str) -> Explanation:
        """Explain whether two modules, parameters or targets lose units together, and through what.

        Raises InputError for a name that is none of these.
        """
        what = f"{first} and {second}"
        mine, other = (self._footprints(name) for name in (first, second))
        for target, starts in mine.items():
            ends = [one for one in other.get(target, []) if one not in starts]
            if not other.get(target):
                continue
            if not ends:
                return Explanation(what, (), (), (), f"{what} are parts of {target.name}")
            found = self._chains.between(starts, ends, int(target.units[0]))
            if found:
                links = min(found.values(), key=len)
                said = f"{first} and {second} lose units of {target.name} together:"
                return Explanation(what, (), (), links, said)
            return Explanation(what, (), (), None, f"{what} share {target.name}")
        return Explanation(
            what,
            verdict=f"{first} and {second} share no unit: each can lose its "
            "own, and the other does not notice",
        )

    def _footprints(self, name: str) -> dict[Target, list[Axis]]:
        """Return the targets that a name has a part in, with the axes that it names."""
        found: dict[Target, list[Axis]] = {}
        for target in self._discovery.targets:
            named = fnmatchcase(target.name, name)
            axes = [at for at in target.footprint if named or _inside(at[0], name)]
            if axes:
                found[target] = [self._chains.parameter(*at) for at in axes]
        if not found and not any(_inside(axis.name, name) for axis in self._discovery.axes):
            raise InputError(f"explain: {unknown('module or target', name, self._names())}")
        return found

    def _names(self) -> list[str]:
        parts = [name.split(".") for name in self._discovery.parameters]
        modules = {".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}
        return [*sorted(modules), *(target.name for target in self._discovery.targets)]

    def _together(self, target: Target) -> Together:
        axes = [self._chains.parameter(*at) for at in target.footprint]
        found = self._chains.between(axes[:1], axes, int(target.units[0]))
        tied = tuple(
            Tied(*at, found.get(axis, ())) for at, axis in zip(target.footprint, axes, strict=True)
        )
        about = (target.name, target.kind, len(target), target.exact, target.why)
        return Together(*about, tied)

    def _held(self, axes: Iterable[ParameterAxis], once: bool = False) -> tuple[Held, ...]:
        """Return why indices of axes cannot leave; each cause `once`, at the axis it is met first.

        A kernel's own axes and the axes of inputs are what nobody expects to leave.
        """
        found: list[Held] = []
        seen: set[tuple[str, str]] = set()
        for axis in axes:
            rows = np.flatnonzero((axis.guard == 0).all(axis=1))
            cause = None
            if len(rows) and len(axis.raw) > 1:
                cause = self._chains.cause(self._chains.parameter(axis.name, axis.dim), rows)
            if cause is None or cause.reason in UNREMARKABLE:
                continue
            key = (cause.node, cause.reason)
            if once and (key in seen or cause.reason.startswith(NEVER)):
                continue
            seen.add(key)
            step = next((s for begin, s in NEXT.items() if cause.reason.startswith(begin)), "")
            held = Held(axis.name, axis.dim, len(rows), cause, step, self._freed(cause))
            found.append(held)
        return tuple(found)

    def _freed(self, cause: Cause) -> int | None:
        """Return how many parameters a rule of the operator could free at the most."""
        if not cause.reason.startswith(NO_RULE):
            return None
        discovery = self._discovery
        operator = cause.reason.removeprefix(NO_RULE)
        nodes = [n for n, name in discovery.coupling.unruled.items() if name == operator]
        spared = frozenset(nodes)
        other = Discovery(discovery.module, couple(discovery.module, spared=spared))
        total = sum(int(np.prod([len(a.raw) for a in p])) for p in other.parameters.values())
        return round((other.coverage - discovery.coverage) * total)


def _inside(parameter: str, pattern: str) -> bool:
    """Tell whether a pattern names a parameter, its module, or one around that."""
    parts = parameter.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _short(names: list[str]) -> str:
    """Return a chain of operators in few words: its ends, where it is long.

    >>> _short(["conv2d", "relu", "add"])
    'conv2d, relu, add'
    """
    listed = names if len(names) <= 6 else [*names[:3], f"… {len(names) - 5} more …", *names[-2:]]
    return ", ".join(listed)
