"""The tree of a model for people: widths, parameters, MACs, what leaves together, what stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fxprune.cost import Cost
from fxprune.graphs import module_of
from fxprune.targets import Discovery, Target
from fxprune.targets.discovery import KINDS, ParameterAxis

HEADINGS = ("module", "type", "parameters", "MACs", "width", "units", "leaves with")
NUMBERS = ("parameters", "MACs", "width")
ORDER = [*KINDS.values()]
MANY = 3  # siblings that look alike are folded into one from here on


@dataclass
class Part:
    """Hold one module of the tree: what is its own, and the modules inside."""

    path: str
    type: str = ""
    parameters: int = 0
    macs: int = 0
    width: int = 0
    units: str = ""
    with_: str = ""
    inside: dict[str, Part] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition(".")[2]

    def whole(self) -> tuple[int, int]:
        """Return parameters and MACs with all that is inside."""
        inner = [one.whole() for one in self.inside.values()]
        return self.parameters + sum(p for p, _ in inner), self.macs + sum(m for _, m in inner)

    def look(self) -> tuple[object, ...]:
        """Return what two modules share that look alike."""
        own = (self.type, self.parameters, self.macs, self.width, self.units)
        return (*own, tuple((name, one.look()) for name, one in self.inside.items()))


def tree_of(discovery: Discovery, cost: Cost) -> Part:
    """Return the tree of the modules that hold parameters or multiply."""
    root = Part("")
    for path, kind in discovery.module_types.items():
        root.type = kind.rpartition(".")[2] if not path else root.type
    for name, axes in discovery.parameters.items():
        part = _at(root, name.rpartition(".")[0], discovery)
        size = 1
        for axis in axes:
            size *= len(axis.raw)
        part.parameters += size
        if axes and len(axes[0].raw) > 1 and (not part.width or len(axes) > 1):
            _describe(part, discovery, axes[0])
    for node, macs in cost.macs_by_node(cost.whole()).items():
        path = module_of(node)
        held = {name.rpartition(".")[0] for name in _read(node)} & set(discovery.module_types)
        _at(root, held.pop() if len(held) == 1 else path, discovery).macs += macs
    return root


def _read(node: object) -> list[str]:
    operands = node.all_input_nodes  # type: ignore[attr-defined]
    return [str(one.target) for one in operands if one.op == "get_attr"]


def _at(root: Part, path: str, discovery: Discovery) -> Part:
    part, names = root, path.split(".") if path else []
    for number, name in enumerate(names):
        here = ".".join(names[: number + 1])
        if name not in part.inside:
            kind = discovery.module_types.get(here, "").rpartition(".")[2]
            part.inside[name] = Part(here, kind)
        part = part.inside[name]
    return part


def _describe(part: Part, discovery: Discovery, axis: ParameterAxis) -> None:
    """Say what the width of a module is made of, and with which modules it leaves."""
    part.width = len(axis.raw)
    made = [t for t in discovery.targets if (axis.name, axis.dim) in t.footprint]
    made.sort(key=lambda t: (ORDER.index(t.kind), -len(t)))
    free = " × ".join(f"{len(t)} {t.kind}{'' if t.exact else '~'}" for t in made)
    part.units = free or "stays"
    part.with_ = "; ".join(dict.fromkeys(filter(None, (_others(t, part.path) for t in made))))


def _others(target: Target, path: str) -> str:
    """Return with which other modules the units of a target are made."""
    makers = {name.rpartition(".")[0] for name, dim in target.footprint if dim == 0}
    owner = target.name.split(":")[0]
    others = sorted(makers - {path, owner})
    if path != owner:
        return owner
    return f"{others[0]} + {len(others) - 1} more" if len(others) > 1 else "".join(others)


def rows_of(root: Part) -> list[tuple[str, ...]]:
    """Return the rows of a table: siblings that look alike are folded."""
    parameters, macs = root.whole()
    return [*_rows(root, "", "", max(parameters, 1), max(macs, 1))]


def _rows(
    part: Part, first: str, rest: str, parameters: int, macs: int
) -> Iterator[tuple[str, ...]]:
    mine, multiplied = part.whole()
    yield (
        first + (part.name or "model"),
        part.type,
        f"{mine:,}",
        f"{multiplied / macs:.1%}" if multiplied else "",
        str(part.width or ""),
        part.units,
        part.with_,
    )
    runs = _runs([*part.inside.values()])
    for number, (one, more) in enumerate(runs):
        last = number == len(runs) - 1
        yield from _rows(
            one,
            rest + ("└ " if last and not more else "├ "),
            rest + ("  " if last and not more else "│ "),
            parameters,
            macs,
        )
        if more:
            line = f"{rest}{'└' if last else '├'} … {len(more)} more"
            yield (line, "like it", *[""] * (len(HEADINGS) - 3), _span(more))


def _runs(parts: list[Part]) -> list[tuple[Part, list[Part]]]:
    """Return siblings one after the other, each with those that follow and look like it."""
    runs: list[tuple[Part, list[Part]]] = []
    for part in parts:
        if runs and runs[-1][0].inside and runs[-1][0].look() == part.look():
            runs[-1][1].append(part)
        else:
            runs.append((part, []))
    return [pair for first, more in runs for pair in _unfolded(first, more)]


def _unfolded(first: Part, more: list[Part]) -> list[tuple[Part, list[Part]]]:
    if len(more) + 1 >= MANY:
        return [(first, more)]
    return [(one, []) for one in (first, *more)]


def _span(parts: list[Part]) -> str:
    return f"{parts[0].name} … {parts[-1].name}" if len(parts) > 1 else parts[0].name
