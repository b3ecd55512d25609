"""Programs that others exported with a fixed batch: whether their graphs take another as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxprune.contexts import quiet
from fxprune.signature import Signature

MORE = 3  # examples that are added for a try
Shapes = list[tuple[int, ...]]


def following_batch(module: fx.GraphModule, signature: Signature) -> tuple[tuple[int, int], ...]:
    """Return the leading axes that may have another size, as leaf and axis; none where in doubt.

    The graph is run on fake tensors with the example's batch and with a larger one: each size of
    each result must stay as it is or grow with the batch, and each result of the program must have
    as many rows as there are examples.
    """
    leaves = signature.leaves
    tensors = [k for k, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.ndim]
    batch = leaves[tensors[0]].shape[0] if tensors else 0
    led = [k for k in tensors if leaves[k].shape[0] == batch]
    if not batch:
        return ()
    try:
        with quiet():
            small = _shapes(module, leaves, led, batch)
            large = _shapes(module, leaves, led, batch + MORE)
    except Exception:  # an operator takes no other batch
        return ()
    (*inner, results), (*grown, wider) = small, large
    pairs = [*zip(inner, grown, strict=True), (results, wider)]
    if not all(_follow(a, b, batch) for a, b in pairs):
        return ()
    heads = zip(results, wider, strict=True)
    if not all(a and a[0] == batch and b[0] == batch + MORE for a, b in heads):
        return ()
    return tuple((k, 0) for k in led)


def _shapes(module: fx.GraphModule, leaves: list[Any], led: list[int], batch: int) -> list[Shapes]:
    """Return the shapes of what every node gives, those of the program's results last."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # a private part of torch

    seen: list[Shapes] = []

    class Reader(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            flat = pytree.tree_leaves(result)
            seen.append([tuple(one.shape) for one in flat if isinstance(one, torch.Tensor)])
            return result

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        given = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in leaves]
        for k in led:
            given[k] = given[k].new_empty((batch, *given[k].shape[1:]))
        Reader(module).run(*given, enable_io_processing=False)
    return seen


def _follow(small: Shapes, large: Shapes, batch: int) -> bool:
    """Tell whether every size stays as it is, or grows with the batch."""
    return len(small) == len(large) and all(
        len(a) == len(b)
        and all(n == m or n * (batch + MORE) == m * batch for n, m in zip(a, b, strict=True))
        for a, b in zip(small, large, strict=True)
    )
