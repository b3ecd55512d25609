"""Samples of torchvision's operators, where it is installed."""

from importlib.util import find_spec
from typing import Any

import torch

from tests.rules.law import Sample
from tests.rules.operands import f, s, x

REGIONS = torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]])


def _deform(groups: int, offset_groups: int, *, masked: bool = False) -> Sample:
    offset = f(2, 18 * offset_groups, 4, 4)
    mask = f(2, 9 * offset_groups, 4, 4)
    sizes = (1, 1, 0, 0, 1, 1, groups, offset_groups, masked)
    weight = f(6, 4 // groups, 3, 3)
    operator = torch.ops.torchvision.deform_conv2d.default
    return s(operator, f(2, 4, 6, 6), weight, offset, mask, f(6), *sizes)


def _samples() -> list[Any]:
    if find_spec("torchvision") is None:
        return []
    import torchvision  # noqa: F401  (it registers the operators)

    ops = torch.ops.torchvision
    return [
        s(ops.roi_align.default, f(2, 3, 6, 6), REGIONS, 1.0, 2, 2, 2, False),
        s(ops.roi_pool.default, f(2, 3, 6, 6), REGIONS, 1.0, 2, 2),
        s(ops.roi_align.default, x(2, 3, 6, 6), REGIONS, 0.5, 2, 2, 2, True),
        _deform(1, 1),
        _deform(2, 1, masked=True),
        _deform(1, 2),
        _deform(2, 2),
    ]


SAMPLES = _samples()
