"""Which axes of the inputs are free, as far as attempts to record a forward have shown.

A recording assumes that every axis may have any size. Where it meets a question whose answer is
another for other sizes, it is begun again: with the answer as a condition that the sizes of all
columns meet, or, where only the example's own sizes meet it, with the axes concerned fixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch.utils._sympy.printers import PythonPrinter

from fxprune.capture.size_questions import Vector, number, numbered
from fxprune.signature import Condition, FixedAxis, parsed, related

COLUMNS = 4  # the example's size and three others
SMALL = 12  # below which no other size is tried: it would be mistaken for others
OFFSETS = 130  # sizes after the example's that are tried for axes with conditions
FACTORS = range(2, 40)
LARGEST = 128  # modulus that a size is told to be a multiple of
EVERY = (*range(1, 513), *(10**n for n in range(3, 10)))  # sizes that stand for all
WIDE = 100  # more than the axes of any tensor
Place = tuple[int, int]  # leaf and axis
ONE = "its size in the example is 1: give a larger one to leave it free"


class Restart(BaseException):
    """Stop a recording that rests on a wrong assumption about sizes."""

    def __init__(self, expr: Any, line: str, why: str = "", by: str = "the forward") -> None:
        super().__init__(str(expr))
        self.expr, self.line, self.why, self.by = expr, line, why, by


@dataclass(frozen=True)
class Axes:
    """Hold for each leaf and axis which symbol its size is, and what is known of the symbols."""

    leaves: tuple[Any, ...]
    symbols: Mapping[Place, Any]
    conditions: tuple[tuple[Any, str], ...] = ()  # expressions that hold, each with its line
    fixed: Mapping[Place, tuple[str, str]] = field(default_factory=dict)  # why, and the line

    @classmethod
    def of(cls, leaves: Sequence[Any], wanted: Iterable[Place]) -> Axes:
        """Let the wanted axes be free where their size is not 0 or 1."""
        free, fixed = dict[Place, Any](), dict[Place, tuple[str, str]]()
        for k, d in wanted:
            if leaves[k].shape[d] > 1:
                free[k, d] = numbered(k * WIDE + d)
            else:
                fixed[k, d] = ONE, ""
        return cls(tuple(leaves), free, fixed=fixed)

    # ---- numbers to try --------------------------------------------------------------------------

    def columns(self) -> dict[Any, Vector] | None:
        """Return numbers for every symbol that meet all conditions, or None: there are none."""
        found = {symbol: [size] for symbol, size in self._examples().items()}
        groups = self._groups()
        for j in range(1, COLUMNS):
            for g, group in enumerate(groups):
                tried = next(self._tried(group, found, j, g), None)
                if tried is None and j > 1:  # there are no more: those before have to do
                    tried = {symbol: found[symbol][j - 1] for symbol in group}
                if tried is None:
                    return None
                for symbol, size in tried.items():
                    found[symbol].append(size)
        return {symbol: tuple(sizes) for symbol, sizes in found.items()}

    def _examples(self) -> dict[Any, int]:
        return {s: int(self.leaves[k].shape[d]) for (k, d), s in self.symbols.items()}

    def _groups(self) -> list[list[Any]]:
        """Return the symbols in groups that some condition relates."""
        symbols = dict.fromkeys(self.symbols.values())
        groups = related(symbols, (expr.free_symbols for expr, _ in self.conditions))
        return [sorted(group, key=str) for group in groups]

    def _tried(
        self, group: list[Any], found: Mapping[Any, list[int]], j: int, g: int
    ) -> Iterator[dict[Any, int]]:
        """Yield sizes for a group of symbols that meet its conditions, and are no multiples."""
        about = [e for e, _ in self.conditions if e.free_symbols <= set(group)]
        used = [(found[s][0], found[s][j]) for s in found if s not in group and len(found[s]) > j]
        for tried in self._candidates(group, found, j, g):
            new = all(tried[s] not in found[s] for s in group)
            alone = all(tried[s] * a != b * found[s][0] for s in group for a, b in used)
            if new and alone and all(_holds(expr, tried) for expr in about):
                yield tried

    def _candidates(
        self, group: list[Any], found: Mapping[Any, list[int]], j: int, g: int
    ) -> Iterator[dict[Any, int]]:
        primes = {s: list(_primes(max(found[s][0], SMALL), 3 * COLUMNS)) for s in group}
        for shift in range(COLUMNS):
            yield {
                s: primes[s][(j + 2 * (g + i) + shift) % len(primes[s])]
                for i, s in enumerate(group)
            }
        step = 1 + 2 * ((7 * g + 3 * j) % 5)
        for offset in sorted(range(1, OFFSETS), key=lambda n: (n % step, n)):
            yield {s: found[s][0] + offset for s in group}
        for factor in sorted(FACTORS, key=lambda n: ((n + g) % 3, n)):
            yield {s: found[s][0] * factor for s in group}
        for offset in range(1, OFFSETS):
            if all(found[s][0] - offset > 0 for s in group):
                yield {s: found[s][0] - offset for s in group}

    # ---- what an attempt has shown ---------------------------------------------------------------

    def after(self, met: Restart) -> Axes:
        """Return what is known once a recording has met a question."""
        if not met.why:
            wider = self._given(met.expr, met.line)
            if wider.columns() is not None:
                return wider
        return self._without(met)

    def _given(self, expr: Any, line: str) -> Axes:
        """Add a condition; of two symbols that are equal one is left."""
        if isinstance(expr, sympy.Eq) and all(isinstance(a, sympy.Symbol) for a in expr.args):
            kept, gone = sorted(expr.args, key=str)
            symbols = {p: kept if s == gone else s for p, s in self.symbols.items()}
            rest = [(e.xreplace({gone: kept}), at) for e, at in self.conditions]
            some = tuple((e, at) for e, at in rest if e not in (sympy.true, sympy.false))
            return replace(self, symbols=symbols, conditions=some)
        return replace(self, conditions=(*self.conditions, (expr, line)))

    def _without(self, met: Restart) -> Axes:
        """Fix the axes that a question is about: a batch only where no other axis is."""
        about = met.expr.free_symbols
        places = [place for place, symbol in self.symbols.items() if symbol in about]
        inner = [place for place in places if not self._leads(place)]
        gone = {self.symbols[place] for place in inner or places}
        why = met.why or f"{met.by} asks whether {self.said(met.expr)}"
        fixed = {place: (why, met.line) for place, s in self.symbols.items() if s in gone}
        symbols = {place: s for place, s in self.symbols.items() if s not in gone}
        examples = {s: sympy.Integer(n) for s, n in self._examples().items() if s in gone}
        rest = [(expr.xreplace(examples), line) for expr, line in self.conditions]
        some = tuple((e, at) for e, at in rest if e not in (sympy.true, sympy.false))
        left = replace(self, symbols=symbols, fixed={**self.fixed, **fixed}, conditions=some)
        return left if left.columns() is not None else left.fully(why, met.line)

    def _leads(self, place: Place) -> bool:
        """Tell whether an axis is a leading one, or always as long as one."""
        symbol = self.symbols[place]
        return any(d == 0 and one == symbol for (_, d), one in self.symbols.items())

    def fully(self, why: str, line: str) -> Axes:
        """Fix every axis."""
        fixed = dict.fromkeys(self.symbols, (why, line))
        return replace(self, symbols={}, fixed={**self.fixed, **fixed}, conditions=())

    def leading(self, why: str) -> Axes:
        """Fix every axis that does not lead."""
        fixed = {place: (why, "") for place in self.symbols if place[1]}
        symbols = {place: s for place, s in self.symbols.items() if not place[1]}
        return Axes(self.leaves, symbols, fixed={**self.fixed, **fixed})

    # ---- in words --------------------------------------------------------------------------------

    def names(self, labels: Sequence[str]) -> dict[Any, str]:
        """Return a name for each symbol: that of the first axis that has it."""
        found: dict[Any, str] = {}
        for (k, d), symbol in self.symbols.items():
            word = re.sub(r"\W+", "_", labels[k]).strip("_") or "x"
            found.setdefault(symbol, f"{word}_{d}")
        return found

    def said(self, expr: Any) -> str:
        """Return an expression in words that name the axes."""
        names = {s: sympy.Symbol(f"size_{d}") for (_, d), s in self.symbols.items()}
        return _text(expr.xreplace(names)) or "…"

    def facts(
        self, labels: Sequence[str]
    ) -> tuple[tuple[tuple[str | None, ...], ...], tuple[Condition, ...], tuple[FixedAxis, ...]]:
        """Return the axes, conditions and fixed axes as a signature holds them.

        Raises ValueError for a condition that cannot be told in text.
        """
        names = self.names(labels)
        ranks = [leaf.ndim if torch.is_tensor(leaf) else 0 for leaf in self.leaves]
        axes = tuple(
            tuple(names.get(self.symbols.get((k, d))) for d in range(rank))
            for k, rank in enumerate(ranks)
        )
        conditions = tuple(_told(self.conditions, names))
        fixed = tuple(FixedAxis(k, d, *said) for (k, d), said in sorted(self.fixed.items()))
        return axes, conditions, fixed


def _told(conditions: Sequence[tuple[Any, str]], names: Mapping[Any, str]) -> Iterator[Condition]:
    """Yield conditions as text; equations of one size that say it is a multiple, as that."""
    plain = {symbol: sympy.Symbol(name, integer=True) for symbol, name in names.items()}
    equations: dict[Any, list[tuple[Any, str]]] = {}
    seen = set[str]()
    for expr, line in conditions:
        free = expr.free_symbols
        if isinstance(expr, sympy.Eq) and len(free) == 1:
            equations.setdefault(next(iter(free)), []).append((expr, line))
            continue
        if len(free) == 1 and all(_holds(expr, dict.fromkeys(free, n)) for n in EVERY):
            continue  # it says nothing
        text = _text(expr.xreplace(plain))
        parsed(text)
        if text not in seen:
            yield Condition(text, line)
        seen.add(text)
    for symbol, mine in equations.items():
        if (modulus := _multiples([expr for expr, _ in mine], symbol)) is not None:
            yield Condition(f"{names[symbol]} % {modulus[0]} == {modulus[1]}", mine[0][1])
            continue
        for text, line in {_text(expr.xreplace(plain)): line for expr, line in mine}.items():
            parsed(text)
            yield Condition(text, line)


def _multiples(equations: Sequence[Any], symbol: Any) -> tuple[int, int] | None:
    """Return m and r where some equations say that a size is r more than a multiple of m."""
    met = [
        size
        for size in range(1, 4 * LARGEST + 1)
        if all(_holds(expr, {symbol: size}) for expr in equations)
    ]
    if len(met) < 4:
        return None
    m, r = met[1] - met[0], met[0] % (met[1] - met[0])
    exact = [size for size in range(1, 4 * LARGEST + 1) if size % m == r]
    return (m, r) if exact == met and 1 < m <= LARGEST else None


def _holds(expr: Any, sizes: Mapping[Any, int]) -> bool:
    values = {symbol: sympy.Integer(size) for symbol, size in sizes.items()}
    try:
        return bool(number(expr.xreplace(values)))
    except Exception:  # such as a division by zero
        return False


def _text(expr: Any) -> str:
    return str(PythonPrinter().doprint(expr))


def _primes(above: int, count: int) -> Iterator[int]:
    found, one = 0, above
    while found < count:
        one += 1
        if all(one % n for n in range(2, int(one**0.5) + 1)):
            found += 1
            yield one
