"""Draw what a rule states: `a b, c b, c -> a c`, in letters that stand for axes that shrink."""

from __future__ import annotations

from itertools import count

import numpy as np
from torch.utils import _pytree as pytree

from fxprune.guards import Ids
from fxprune.rules import TensorGuard
from tests.rules.law import Case

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def draw(case: Case) -> str:
    """Draw operands and results: `_` stays, `(a b)` is a product, `a+b` one after another.

    A letter whose removal is approximate has a `~`; one that names itself twice has two factors.
    """
    normal = case.coupling.guards.normal
    operands = [case.coupling.values[node] for node in case.module.graph.nodes if _is_leaf(node)]
    tensors = [v for v in pytree.tree_leaves(operands) if isinstance(v, TensorGuard)]
    groups = [[normal(g) for g in value.dims] for value in (*tensors, *case.results)]
    places: dict[int, list[int]] = {}
    for at, g in zip(count(), (g for dims in groups for g in dims), strict=False):
        for unit in np.unique(g[g > 0]).tolist():
            places.setdefault(unit, []).append(at)
    names: dict[tuple[int, ...], str] = {}
    letters = {u: names.setdefault(tuple(at), _letter(len(names))) for u, at in places.items()}
    marked = {u: name + "~" * (u in case.approximate) for u, name in letters.items()}
    shown = [" ".join(_axis(g, marked) for g in dims) or "()" for dims in groups]
    left, right = shown[: len(tensors)], shown[len(tensors) :]
    return f"{', '.join(left)} -> {', '.join(right)}".strip()


def _is_leaf(node: object) -> bool:
    return getattr(node, "op", "") in ("get_attr", "placeholder")


def _letter(k: int) -> str:
    return LETTERS[k] if k < len(LETTERS) else f"[{k}]"


def _axis(g: Ids, names: dict[int, str]) -> str:
    """Draw one axis: its runs of rows with the same letters."""
    parts: list[str] = []
    for row in g.tolist() if g.shape[1] else [[0]] * min(1, len(g)):
        factors = [names[unit] for unit in row if unit]
        part = f"({' '.join(factors)})" if len(factors) > 1 else "".join(factors) or "_"
        if not parts or parts[-1] != part:
            parts.append(part)
    return "+".join(parts) or "0"
