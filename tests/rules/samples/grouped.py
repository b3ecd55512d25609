"""Samples of matrix products in groups."""

from importlib import import_module
from importlib.util import find_spec

import torch

from tests.rules.operands import f, i, s, x

aten = torch.ops.aten
ends = torch.tensor([2, 5, 7], dtype=torch.int32)


def _fallback(input: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    pieces = input.tensor_split(offs[:-1].long().cpu())
    return torch.cat([rows @ one for rows, one in zip(pieces, weight, strict=True)])


if find_spec("transformers") is None:  # its own operator is called as this one is
    made = torch.library.custom_op(
        "transformers::grouped_mm_fallback",
        _fallback,
        mutates_args=(),
        schema="(Tensor input, Tensor weight, Tensor offs) -> Tensor",
    )
    made.register_fake(lambda input, weight, offs: input.new_empty(input.shape[0], weight.shape[2]))
else:
    import_module("transformers.integrations.moe")
fallback = torch.ops.transformers.grouped_mm_fallback.default

SAMPLES = [
    s(aten._grouped_mm.default, f(7, 8), f(3, 8, 12), ends),
    s(aten._grouped_mm.default, x(7, 8), f(3, 8, 12), ends),
    s(aten._grouped_mm.default, f(3, 4, 8), f(8, 12), torch.tensor([2, 5, 12], dtype=torch.int32)),
    s(aten._grouped_mm.default, f(4, 8), f(8, 12), torch.tensor([2, 5, 8], dtype=torch.int32)),
    s(aten._grouped_mm.default, f(3, 4, 8), f(3, 8, 12)),
    s(aten.searchsorted.Tensor, ends, i(7, 4)),
    s(aten.searchsorted.Tensor, f(3, 4), f(3, 2), right=True),
    s(aten.bucketize.Tensor, f(2, 4), f(3)),
    s(fallback, f(7, 5), f(3, 5, 6), ends),
    s(fallback, x(7, 5), f(3, 5, 6), ends),
]
