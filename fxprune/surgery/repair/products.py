"""Linear layers, matrix products and einsum as rows of features times a matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.graphs import arguments
from fxprune.rules.products import is_weight
from fxprune.surgery.repair.contractions import Form, Found, made, reads

aten = torch.ops.aten
ALONE = "1"  # stands for an axis of size one, which is left out
FACTORS: dict[Any, tuple[str, str]] = {
    aten.matmul.default: ("self", "other"),
    aten.mm.default: ("self", "mat2"),
    aten.bmm.default: ("self", "mat2"),
    aten.mv.default: ("self", "vec"),
    aten.addmm.default: ("mat1", "mat2"),
    aten.baddbmm.default: ("batch1", "batch2"),
}


@dataclass(frozen=True)
class Product(Form):
    """Multiply and sum over letters: `data` and `weight` give `result`, as in einsum.

    Letters of all three are blocks; of data and weight, features; of data and result, rows; of
    weight and result, outputs.
    """

    data: str
    weight: str
    result: str

    def _parts(self) -> tuple[str, str, str, str]:
        x, w, y = (set(one) - {ALONE} for one in (self.data, self.weight, self.result))
        ordered = self.result
        return (
            "".join(k for k in ordered if k in x & w),
            "".join(k for k in ordered if k in x - w),
            "".join(k for k in self.weight if k in (x & w) - y),
            "".join(k for k in ordered if k in w - x),
        )

    def sound(self) -> bool:
        """Tell whether each letter stands once in an operand, and in one of the four parts."""
        known = set("".join(self._parts()))
        texts = [one.replace(ALONE, "") for one in (self.data, self.weight, self.result)]
        return all(len(set(one)) == len(one) and set(one) <= known for one in texts)

    def matrix(self, weight: Tensor) -> Tensor:
        """Return a weight as `[B, K, N]`."""
        blocks, _, features, outputs = self._parts()
        return _folded(weight, self.weight, (blocks, features, outputs))

    def table(self, x: Tensor) -> Tensor:
        """Return the data as `[B, S, K]`."""
        blocks, rows, features, _ = self._parts()
        return _folded(x, self.data, (blocks, rows, features))

    def features(self, table: Tensor, rows: Tensor) -> Tensor:
        """Return some rows of the data."""
        return table.index_select(1, rows)

    def results(self, y: Tensor) -> Tensor:
        """Return results as `[B, S, N]`."""
        blocks, rows, _, outputs = self._parts()
        return _folded(y, self.result, (blocks, rows, outputs))


def _folded(tensor: Tensor, letters: str, parts: Sequence[str]) -> Tensor:
    """Return a tensor whose axes are the products of those that letters name."""
    keep = [d for d, k in enumerate(letters) if k != ALONE]
    tensor = tensor.reshape([tensor.shape[d] for d in keep])
    letters = letters.replace(ALONE, "")
    sizes = dict(zip(letters, tensor.shape, strict=True))
    order = [letters.index(k) for part in parts for k in part]
    return tensor.permute(order).reshape([prod(sizes[k] for k in part) for part in parts])


@reads(aten.linear.default)
def linear(module: fx.GraphModule, node: fx.Node) -> Found:
    """Read `... i, o i, o -> ... o`."""
    given = arguments(node)
    lead = ascii_lowercase[2 : 1 + node.meta["val"].ndim]
    form = Product(f"{lead}a", "ba", f"{lead}b")
    return made(module, node, given["input"], given["weight"], form, given["bias"])


@reads(*FACTORS)
def product(module: fx.GraphModule, node: fx.Node) -> Found:
    """Read `... m k, ... k n -> ... m n`, its forms with vectors, and with something added."""
    given = arguments(node)
    first, second = (given[name] for name in FACTORS[node.target])
    shapes = [tuple(arg.meta["val"].shape) for arg in (first, second)]
    lead = ascii_lowercase[3 : 1 + node.meta["val"].ndim + 2]
    left = "k" if len(shapes[0]) == 1 else "mk"
    right = "k" if len(shapes[1]) == 1 else "kn"
    inner = (left + right).replace("k", "")
    lead = lead[: node.meta["val"].ndim - len(inner)].replace("k", "z").replace("m", "y")
    lead = lead.replace("n", "x")
    texts = [_led(lead, shape, own) for shape, own in zip(shapes, (left, right), strict=True)]
    scaled = given.get("beta", 1) != 1 or given.get("alpha", 1) != 1
    bias = None if scaled or "beta" not in given else given["self"]
    if scaled:
        return "it scales what it adds"
    return _weighed(module, node, [first, second], texts, lead + inner, bias)


def _led(lead: str, shape: tuple[Any, ...], own: str) -> str:
    """Return the letters of an operand, its leading axes aligned from the right."""
    many = len(shape) - len(own)
    letters = lead[len(lead) - many :] if many else ""
    return "".join(ALONE if n == 1 else k for k, n in zip(letters, shape, strict=False)) + own


@reads(aten.einsum.default)
def einsum(module: fx.GraphModule, node: fx.Node) -> Found:
    """Read an einsum of two operands whose result is written out."""
    given = arguments(node)
    text = re.sub(r"\s", "", str(given["equation"]))
    if not re.fullmatch(r"[A-Za-z]*,[A-Za-z]*->[A-Za-z]*", text):
        return "its equation is not of two operands of letters"
    left, result = text.split("->")
    return _weighed(module, node, list(given["tensors"]), left.split(","), result)


def _weighed(
    module: fx.GraphModule,
    node: fx.Node,
    operands: list[Any],
    texts: list[str],
    result: str,
    bias: Any = None,
) -> Found:
    """Return a product of data with a weight, whichever of the two is which."""
    weights = [is_weight(one) for one in operands]
    if sum(weights) != 1 or len(operands) != 2:
        return None
    weight = weights.index(True)
    form = Product(texts[1 - weight], texts[weight], result)
    if not form.sound():
        return "an axis of it is neither row, feature, output nor block"
    return made(module, node, operands[1 - weight], operands[weight], form, bias)
